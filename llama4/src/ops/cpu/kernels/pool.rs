//! Threads for short parallel sections.
//!
//! A decoded token is some hundred products of a few microseconds to a millisecond. Waking a sleeping thread takes as long as the
//! shorter ones, so a worker that has run out of work looks for more for a while before it sleeps, and the caller works too.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a worker looks for work before it sleeps: longer than anything between two sections of a decoded token.
const PATIENCE: Duration = Duration::from_micros(300);

/// Threads that wait for sections, and the one that calls them.
pub(in crate::ops::cpu) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Thread>,
    /// Held by the thread whose section runs.
    section: Mutex<()>,
}

/// What workers and caller share.
struct Shared {
    /// Grows by one with each section.
    round: AtomicU64,
    job: Mutex<Option<Job>>,
    /// Next task of the section.
    next: AtomicUsize,
    /// Workers that have not left the section.
    busy: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<AtomicBool>,
}

/// A section's work.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    run: &'static (dyn Fn(usize) + Sync),
}

impl Pool {
    /// The pool of this process: as many threads as rayon's, so that one setting (`RAYON_NUM_THREADS`) governs both.
    pub(in crate::ops::cpu) fn global() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Self::new(super::threads()))
    }

    fn new(threads: usize) -> Self {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            round: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panic: Mutex::new(None),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        });
        // Where a thread cannot be had, fewer do the work.
        let workers = (0..workers)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                let worker = thread::Builder::new().name(format!("llama4-{index}")).spawn(move || shared.work(index));
                worker.ok().map(|handle| handle.thread().clone())
            })
            .collect();
        Self { shared, workers, section: Mutex::new(()) }
    }

    /// Threads that work in a section, the caller among them.
    pub(in crate::ops::cpu) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Run `task(0)` to `task(tasks - 1)`, each once, on some thread. Returns when all are done.
    ///
    /// A section that is called while another runs, from within it or from another thread, runs on its caller alone.
    ///
    /// # Panics
    /// With the panic of a task, after all threads have left the section.
    pub(in crate::ops::cpu) fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let section = (tasks > 1 && !self.workers.is_empty()).then(|| self.section.try_lock().ok()).flatten();
        let Some(_section) = section else {
            (0..tasks).for_each(task);
            return;
        };
        let shared = &*self.shared;
        let run: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: the lifetime is that of `task`, which outlives every use: workers call it only between the start of the round and
        // their leaving it, and this function waits for all of them, also when a task panics.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        *lock(&shared.job) = Some(Job { tasks, run });
        shared.next.store(0, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent, as the flags of those asleep: a worker either sees the round or is seen to sleep.
        shared.round.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
        shared.take_part(Job { tasks, run });
        let mut spins = 0_u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            // A worker that the system has not let run is not helped by this one's waiting.
            if spins.is_multiple_of(4096) { thread::yield_now() } else { std::hint::spin_loop() }
        }
        *lock(&shared.job) = None;
        let panic = lock(&shared.panic).take();
        drop(_section);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait(index, seen);
            let job = *lock(&self.job);
            if let Some(job) = job {
                self.take_part(job);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Until there is a round after `seen`.
    fn wait(&self, index: usize, seen: u64) -> u64 {
        let since = Instant::now();
        let mut spins = 0_u32;
        loop {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            spins += 1;
            if spins.is_multiple_of(256) && since.elapsed() > PATIENCE {
                break;
            }
            std::hint::spin_loop();
        }
        self.asleep[index].store(true, Ordering::SeqCst);
        while self.round.load(Ordering::SeqCst) == seen {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
        self.round.load(Ordering::Acquire)
    }

    fn take_part(&self, job: Job) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= job.tasks {
                    break;
                }
                (job.run)(task);
            }
        }));
        if let Err(panic) = done {
            // The others need not go on.
            self.next.store(job.tasks, Ordering::Relaxed);
            *lock(&self.panic) = Some(panic);
        }
    }
}

/// What a panic has left behind is as good as before it: every section sets everything anew.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_section() {
        let pool = Pool::new(3);
        for tasks in (0..200).chain([1000]) {
            let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |task| {
                ran[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1), "{tasks} tasks");
        }
    }

    #[test]
    fn a_worker_that_sleeps_is_woken() {
        let pool = Pool::new(2);
        for _ in 0..3 {
            thread::sleep(3 * PATIENCE);
            let count = AtomicUsize::new(0);
            pool.run(100, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 100);
        }
    }

    #[test]
    fn sections_within_sections_and_beside_them_are_done() {
        let pool = Pool::new(2);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    pool.run(8, |_| {
                        pool.run(8, |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        })
                    });
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        let section = || pool.run(16, |task| assert_ne!(task, 7, "task seven"));
        let panic = catch_unwind(AssertUnwindSafe(section)).unwrap_err();
        assert!(panic.downcast_ref::<String>().is_some_and(|message| message.contains("task seven")));
        let count = AtomicUsize::new(0);
        pool.run(16, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 16);
    }
}
