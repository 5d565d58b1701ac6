//! Threads for short parallel sections.
//!
//! A decoded token is some hundred products of a few microseconds to a millisecond. Waking a sleeping thread takes as long as the
//! shorter ones, so a worker that has run out of work looks for more for a while before it sleeps, and the caller works too.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::foresight::Coming;

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
    /// Next task of each thread's share of the section, the caller's last.
    next: Vec<Next>,
    /// Workers that have not left the section.
    busy: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    asleep: Vec<AtomicBool>,
}

/// Written by its thread all the time: on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

/// A section's work.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    /// What a worker asks for when it has no work.
    coming: Coming,
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
            next: (0..=workers).map(|_| Next::default()).collect(),
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
        self.run_before(Coming::default(), tasks, task);
    }

    /// As [`Self::run`], and have the workers ask for what will be `coming` while they wait for more work.
    pub(super) fn run_before(&self, coming: Coming, tasks: usize, task: impl Fn(usize) + Sync) {
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
        let job = Job { tasks, coming, run };
        *lock(&shared.job) = Some(job);
        for (share, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(share, tasks).start, Ordering::Relaxed);
        }
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent, as the flags of those asleep: a worker either sees the round or is seen to sleep.
        shared.round.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.unpark();
            }
        }
        shared.take_part(shared.next.len() - 1, job);
        let mut spins = 0_u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            breathe(spins);
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
        let mut coming = Coming::default();
        loop {
            seen = self.wait(index, seen, &mut coming);
            let job = *lock(&self.job);
            if let Some(job) = job {
                // Sections between two products leave what is coming as it is.
                if !job.coming.is_empty() {
                    coming = job.coming.part(index, self.next.len());
                }
                self.take_part(index, job);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Until there is a round after `seen`.
    fn wait(&self, index: usize, seen: u64, coming: &mut Coming) -> u64 {
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
            if coming.is_empty() { breathe(spins) } else { coming.ask() }
        }
        self.asleep[index].store(true, Ordering::SeqCst);
        while self.round.load(Ordering::SeqCst) == seen {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
        self.round.load(Ordering::Acquire)
    }

    /// Tasks that a thread begins with. They follow one another: the weights of neighbouring tasks lie side by side, and memory gives more
    /// to a stream that goes on.
    fn share(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next.len();
        tasks * thread / threads..tasks * (thread + 1) / threads
    }

    /// The tasks of a thread's own share, then what is left of the others'.
    fn take_part(&self, thread: usize, job: Job) {
        let threads = self.next.len();
        let done = catch_unwind(AssertUnwindSafe(|| {
            for share in (thread..threads).chain(0..thread) {
                let end = self.share(share, job.tasks).end;
                loop {
                    let task = self.next[share].0.fetch_add(1, Ordering::Relaxed);
                    if task >= end {
                        break;
                    }
                    (job.run)(task);
                }
            }
        }));
        if let Err(panic) = done {
            // The others need not go on.
            self.next.iter().for_each(|next| next.0.store(job.tasks, Ordering::Relaxed));
            *lock(&self.panic) = Some(panic);
        }
    }
}

/// Let time go by, the `spins`-th time in a row. Who has waited for longer than another thread takes to react may be what keeps it from running,
/// where other programs have the rest of the processor.
fn breathe(spins: u32) {
    if spins > 1024 && spins.is_multiple_of(64) { thread::yield_now() } else { std::hint::spin_loop() }
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
