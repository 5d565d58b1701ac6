//! The suite on wgpu, with burn's fusion and without.
#![cfg(feature = "wgpu")]

type Direct = burn_cubecl::CubeBackend<cubecl::wgpu::WgpuRuntime, f32, i32, u32>;
type Fused = burn_wgpu::Wgpu<f32, i32, u32>;

mod direct {
    llama4_tests::suite!(crate::Direct, with kernels);
}

mod fused {
    llama4_tests::suite!(crate::Fused, with kernels);
}
