use std::time::Instant;

use anyhow::Result;

/// Seconds of the measured repeats, sorted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    seconds: Vec<f64>,
}

impl Sample {
    /// A sample of at least one measurement.
    pub(crate) fn new(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        Self { seconds }
    }

    /// The value that `share` of the repeats do not exceed, by linear interpolation.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let place = share * (self.seconds.len() - 1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        self.seconds[low] + (self.seconds[high] - self.seconds[low]) * place.fract()
    }
}

/// Prepares, then measures, again and again.
pub(crate) struct Timer {
    repeats: usize,
}

impl Timer {
    pub(crate) fn new(repeats: usize) -> Self {
        Self { repeats }
    }

    /// One repeat to warm up, then the measured ones. `work` must end with its results on the host, or it would measure the launch
    /// alone.
    pub(crate) fn run<S>(
        &self,
        state: &mut S,
        mut prepare: impl FnMut(&mut S) -> Result<()>,
        mut work: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<Sample> {
        let mut seconds = Vec::with_capacity(self.repeats);
        for repeat in 0..=self.repeats {
            prepare(state)?;
            let start = Instant::now();
            work(state)?;
            if repeat > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(Sample::new(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let sample = Sample::new(vec![3.0, 1.0, 2.0]);
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| sample.quantile(share)), [1.0, 1.5, 2.0, 3.0]);
        assert_eq!(Sample::new(vec![4.0]).quantile(0.9), 4.0);
    }

    #[test]
    fn the_warm_up_is_not_measured() {
        let (mut prepared, mut worked) = (0, 0);
        let sample = Timer::new(3).run(
            &mut (),
            |()| {
                prepared += 1;
                Ok(())
            },
            |()| {
                worked += 1;
                Ok(())
            },
        );
        assert_eq!((sample.unwrap().seconds.len(), prepared, worked), (3, 4, 4));
    }
}
