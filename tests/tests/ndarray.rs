//! The suite on burn-ndarray.

llama4_tests::suite!(burn_ndarray::NdArray<f32>);
