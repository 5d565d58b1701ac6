//! The suite on CUDA, with burn's fusion and without.
#![cfg(feature = "cuda")]

type Direct = burn_cubecl::CubeBackend<cubecl::cuda::CudaRuntime, f32, i32, u8>;
type Fused = burn_cuda::Cuda<f32, i32>;

mod direct {
    llama4_tests::suite!(crate::Direct, with kernels);
}

mod fused {
    llama4_tests::suite!(crate::Fused, with kernels);
}
