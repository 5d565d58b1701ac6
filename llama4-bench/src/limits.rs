//! What the machine can do, measured in the same run and on the same device as the cases.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Distribution, FloatDType, Tensor};
use llama4::ops;
use llama4_backends::Target;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::interrupt;

/// Repeats of which the best counts, the first one not among them.
const REPEATS: usize = 5;

/// A size that takes this long is large enough to measure with.
const LONG_ENOUGH: Duration = Duration::from_millis(40);

/// Bytes of the largest buffer that is read.
const LARGEST_BUFFER: u64 = 2 << 30;

/// Rows and columns of the largest product.
const LARGEST_PRODUCT: usize = 8192;

/// The two rates that bound any work, and how they were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Bytes read in a second.
    pub(crate) read_bytes_per_second: f64,
    /// In words.
    pub(crate) read_how: String,
    /// Additions and multiplications in a second.
    pub(crate) operations_per_second: f64,
    /// In words.
    pub(crate) operations_how: String,
}

impl Limits {
    /// Measure both: sizes grow until they take some time, so that a slow device is not kept busy for minutes.
    pub(crate) fn measure<B: Backend>(target: Target, dtype: DType, device: &B::Device) -> Result<Self> {
        let (read_bytes_per_second, read_how) = match target.device_memory().is_none() {
            true => read_host(target.free_memory())?,
            false => read_device::<B>(target, device)?,
        };
        let (operations_per_second, operations_how) = products::<B>(target, dtype, device)?;
        Ok(Self { read_bytes_per_second, read_how, operations_per_second, operations_how })
    }
}

/// Seconds of the best repeat.
fn best(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for repeat in 0..=REPEATS {
        interrupt::check()?;
        let start = Instant::now();
        work()?;
        if repeat > 0 {
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

/// All threads sum a buffer far larger than any cache.
fn read_host(free: Option<u64>) -> Result<(f64, String)> {
    let bytes = (LARGEST_BUFFER / 2).min(free.unwrap_or(u64::MAX) / 4) as usize;
    let mut buffer = vec![0_u64; bytes / 8];
    // Touched by all threads, so that each has pages of its own near it.
    buffer.par_chunks_mut(1 << 17).enumerate().for_each(|(index, part)| part.fill(index as u64));
    let sum = |part: &[u64]| part.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
    let seconds = best(|| {
        black_box(buffer.par_chunks(1 << 17).map(sum).reduce(|| 0, u64::wrapping_add));
        Ok(())
    })?;
    let threads = rayon::current_num_threads();
    let how = format!("sum of {} on the host by {threads} threads, best of {REPEATS}", size(bytes as u64));
    Ok((bytes as f64 / seconds, how))
}

/// Passes over the buffer in one measurement on a device, so that waiting for it counts for little.
const PASSES: usize = 8;

/// The device reads a tensor.
fn read_device<B: Backend>(target: Target, device: &B::Device) -> Result<(f64, String)> {
    let most = LARGEST_BUFFER.min(target.largest_tensor().unwrap_or(u64::MAX)).min(free_quarter(target));
    let mut bytes = (1_u64 << 26).min(most);
    loop {
        let tensor = Tensor::<B, 1>::ones([(bytes / 4) as usize], device).cast(FloatDType::F32);
        let read = || {
            for _ in 0..PASSES {
                black_box(ops::partial_sums(tensor.clone()));
            }
            B::sync(device).context("waiting for the device")
        };
        read()?;
        let start = Instant::now();
        read()?;
        if start.elapsed() < LONG_ENOUGH && bytes * 2 <= most {
            bytes *= 2;
            continue;
        }
        let seconds = best(read)? / PASSES as f64;
        let how = format!("sums of {} of f32 on the device, best of {REPEATS}", size(bytes));
        return Ok((bytes as f64 / seconds, how));
    }
}

/// Square products.
fn products<B: Backend>(target: Target, dtype: DType, device: &B::Device) -> Result<(f64, String)> {
    let most = target.largest_tensor().unwrap_or(u64::MAX).min(free_quarter(target));
    let float: FloatDType = dtype.into();
    let mut side = 1024;
    loop {
        let random = || Tensor::<B, 2>::random([side, side], Distribution::Uniform(-1.0, 1.0), device).cast(float);
        let (a, b) = (random(), random());
        let multiply = || {
            let product = a.clone().matmul(b.clone());
            // One value to the host: the product is done then.
            black_box(product.slice([0..1, 0..1]).into_data());
            Ok(())
        };
        multiply()?;
        let start = Instant::now();
        multiply()?;
        let next = side * 2;
        let fits = next <= LARGEST_PRODUCT && (4 * next * next) as u64 <= most;
        if start.elapsed() < LONG_ENOUGH && fits {
            side = next;
            continue;
        }
        let seconds = best(multiply)?;
        let how = format!("burn's {} product of {side} by {side} by {side}, best of {REPEATS}", dtype.name());
        return Ok((2.0 * (side as f64).powi(3) / seconds, how));
    }
}

fn free_quarter(target: Target) -> u64 {
    target.free_memory().map_or(u64::MAX, |free| free / 4)
}

fn size(bytes: u64) -> String {
    let mebibytes = bytes >> 20;
    if mebibytes >= 1 << 10 { format!("{:.1} GiB", mebibytes as f64 / 1024.0) } else { format!("{mebibytes} MiB") }
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use llama4_backends::BackendKind;

    use super::*;

    #[test]
    fn the_cpus_limits_are_those_of_a_cpu() {
        let target = Target { backend: BackendKind::Ndarray, device: None };
        let (read, how) = read_host(Some(1 << 28)).unwrap();
        // Far below what any machine does: it may be busy with other things.
        assert!((1e8..1e13).contains(&read), "{read}");
        assert!(how.contains("64 MiB") && how.contains("threads"), "{how}");
        struct Products(Target);
        impl llama4_backends::Task for Products {
            type Output = (f64, String);
            fn run<B: Backend>(self, device: &B::Device) -> Result<Self::Output> {
                products::<B>(self.0, DType::F32, device)
            }
        }
        let (rate, how) = target.run(Products(target)).unwrap();
        assert!((1e8..1e14).contains(&rate), "{rate}");
        assert!(how.contains("f32 product"), "{how}");
    }
}
