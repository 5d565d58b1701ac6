use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::matmul::{MatmulStrategy, init_matmul_output, matmul};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubePrimitive;
use cubecl::tf32;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{MatmulInputHandleRef, Strategy, launch_ref};

/// The product of `f32` matrices without tensor cores, where burn's own would take them and round to TF32, 10 bits of fraction. `None` where
/// burn's is as exact.
pub(in crate::ops) fn exact_product<R: CubeRuntime>(a: CubeTensor<R>, b: CubeTensor<R>) -> Option<CubeTensor<R>> {
    let client = a.client.clone();
    if !client.properties().supports_type(tf32::as_type_native_unchecked()) {
        return None;
    }
    let output = init_matmul_output(&a, &b, DType::F32);
    let dtype = DType::F32.into();
    let launched = launch_ref(
        &Strategy::SimpleUnit(Default::default()),
        &client,
        &MatmulInputHandleRef::new(a.as_handle_ref(), dtype),
        &MatmulInputHandleRef::new(b.as_handle_ref(), dtype),
        &output.as_handle_ref(),
        &mut MatmulElems::from_globals(&MatmulGlobalElems { lhs: dtype, rhs: dtype, out: dtype }),
    );
    super::ran("f32 product", launched).then_some(output)
}

/// burn's product of two matrices of one type, with sums of another. `None` where it has no kernel for that.
pub(in crate::ops) fn product_into<R: CubeRuntime>(
    a: CubeTensor<R>,
    b: CubeTensor<R>,
    dtype: DType,
) -> Option<CubeTensor<R>> {
    if a.dtype != b.dtype {
        return None;
    }
    let product = matmul(a, b, None, MatmulStrategy::default(), dtype);
    super::ran("product with wider sums", product.as_ref().map(|_| ()));
    product.ok()
}
