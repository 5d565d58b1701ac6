//! Repeats: one to warm up, then as many as asked for or as the time allows.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::interrupt::{self, Stopped};

/// How much is measured of a case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Measured repeats.
    pub(crate) repeats: usize,
    /// No further repeat begins this long after the one to warm up, which compiles kernels; one is always made.
    pub(crate) time: Duration,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Seconds of the first repeat, which is not among the others.
    pub(crate) warm_up: f64,
    /// Seconds of each measured repeat, in the order in which they were made.
    pub(crate) seconds: Vec<f64>,
}

impl Sample {
    /// The seconds that `share` of the repeats do not exceed, by linear interpolation.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.seconds, share)
    }
}

/// The value that `share` of some values do not exceed, by linear interpolation; not a number where there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    values[low] + (values[high] - values[low]) * place.fract()
}

impl Budget {
    /// Prepare, then work, again and again; `after` is called after each measured repeat.
    ///
    /// `work` must end with its results on the host or the device waited for, or the launch alone would be measured.
    ///
    /// # Errors
    /// When one of them fails, and when Ctrl-C comes before the first measured repeat is done; later it ends the sample.
    pub(crate) fn measure<S>(
        &self,
        state: &mut S,
        mut prepare: impl FnMut(&mut S) -> Result<()>,
        mut work: impl FnMut(&mut S) -> Result<()>,
        mut after: impl FnMut() -> Result<()>,
    ) -> Result<Sample> {
        let mut repeat = |state: &mut S| {
            interrupt::check()?;
            prepare(state)?;
            let start = Instant::now();
            work(state)?;
            Ok::<f64, anyhow::Error>(start.elapsed().as_secs_f64())
        };
        let warm_up = repeat(state)?;
        let begun = Instant::now();
        let mut seconds = Vec::with_capacity(self.repeats);
        while seconds.len() < self.repeats && (seconds.is_empty() || begun.elapsed() < self.time) {
            match repeat(state) {
                Ok(time) => seconds.push(time),
                Err(error) if error.is::<Stopped>() && !seconds.is_empty() => break,
                Err(error) => return Err(error),
            }
            after()?;
        }
        Ok(Sample { warm_up, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let values = [3.0, 1.0, 2.0];
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| quantile(&values, share)), [1.0, 1.5, 2.0, 3.0]);
        assert_eq!(quantile(&[4.0], 0.9), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_warm_up_is_apart() {
        let (mut prepared, mut worked, mut after) = (0, 0, 0);
        let budget = Budget { repeats: 3, time: Duration::from_secs(60) };
        let sample = budget.measure(
            &mut (),
            |()| {
                prepared += 1;
                Ok(())
            },
            |()| {
                worked += 1;
                std::thread::sleep(Duration::from_millis(if worked == 1 { 40 } else { 1 }));
                Ok(())
            },
            || {
                after += 1;
                Ok(())
            },
        );
        let sample = sample.unwrap();
        assert_eq!((sample.seconds.len(), prepared, worked, after), (3, 4, 4, 3));
        assert!(sample.warm_up >= 0.04 && sample.quantile(0.5) < 0.04, "{sample:?}");
    }

    #[test]
    fn a_long_warm_up_takes_no_repeats_away() {
        let mut worked = 0;
        let budget = Budget { repeats: 3, time: Duration::from_millis(250) };
        let work = |worked: &mut i32| {
            *worked += 1;
            std::thread::sleep(Duration::from_millis(if *worked == 1 { 300 } else { 0 }));
            Ok(())
        };
        let sample = budget.measure(&mut worked, |_| Ok(()), work, || Ok(())).unwrap();
        assert_eq!(sample.seconds.len(), 3);
    }

    #[test]
    fn one_repeat_is_made_however_short_the_time() {
        let budget = Budget { repeats: 9, time: Duration::from_nanos(1) };
        let sample = budget.measure(&mut (), |()| Ok(()), |()| Ok(()), || Ok(())).unwrap();
        assert_eq!(sample.seconds.len(), 1);
    }
}
