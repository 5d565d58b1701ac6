//! How tensors of a generic backend get to kernels and back.

use std::any::{Any, TypeId};

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorPrimitive};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// Where a tensor came from, and its result goes back to.
#[derive(Clone)]
pub(in crate::ops) enum Door<R: CubeRuntime> {
    /// The backend's tensors are CubeCL's.
    Direct,
    /// They are operations that wait to be fused, on a backend whose booleans are bytes.
    #[cfg(feature = "fusion")]
    FusedBytes(fused::Client<R, u8>),
    /// The same where booleans are words.
    #[cfg(feature = "fusion")]
    FusedWords(fused::Client<R, u32>),
    /// No such value: without fusion nothing else names the runtime.
    #[cfg(not(feature = "fusion"))]
    #[allow(dead_code)]
    Never(std::marker::PhantomData<R>, std::convert::Infallible),
}

/// Whether primitives of this type are tensors on the runtime `R`.
pub(in crate::ops) fn is_cube<R: CubeRuntime, P: 'static>() -> bool {
    TypeId::of::<P>() == TypeId::of::<CubeTensor<R>>() || is_fused::<R, P>()
}

/// Whether they are operations on it that wait to be fused.
pub(in crate::ops) fn is_fused<R: CubeRuntime, P: 'static>() -> bool {
    #[cfg(feature = "fusion")]
    {
        let id = TypeId::of::<P>();
        id == TypeId::of::<fused::Tensor<R, u8>>() || id == TypeId::of::<fused::Tensor<R, u32>>()
    }
    #[cfg(not(feature = "fusion"))]
    {
        let _ = (TypeId::of::<R>(), TypeId::of::<P>());
        false
    }
}

/// The tensor as CubeCL's, contiguous, if it is one. Shares the storage.
pub(in crate::ops) fn float<B: Backend, R: CubeRuntime, const D: usize>(
    tensor: &Tensor<B, D>,
) -> Option<(CubeTensor<R>, Door<R>)> {
    strided(tensor).map(|(tensor, door)| (into_contiguous(tensor), door))
}

/// The same, its axes in whatever order they are.
pub(in crate::ops) fn strided<B: Backend, R: CubeRuntime, const D: usize>(
    tensor: &Tensor<B, D>,
) -> Option<(CubeTensor<R>, Door<R>)> {
    if !is_cube::<R, B::FloatTensorPrimitive>() {
        return None;
    }
    match tensor.clone().into_primitive() {
        TensorPrimitive::Float(primitive) => reach(Box::new(primitive)),
        TensorPrimitive::QFloat(_) => None,
    }
}

/// The same of a tensor that is given away, so that it can be written to if nobody else has it. Only of primitives for which [`is_cube`]
/// holds.
pub(in crate::ops) fn owned<B: Backend, R: CubeRuntime, const D: usize>(
    tensor: Tensor<B, D>,
) -> Option<(CubeTensor<R>, Door<R>)> {
    match tensor.into_primitive() {
        TensorPrimitive::Float(primitive) => reach(Box::new(primitive)),
        TensorPrimitive::QFloat(_) => None,
    }
}

/// The same of integers.
pub(in crate::ops) fn int<B: Backend, R: CubeRuntime, const D: usize>(
    tensor: Tensor<B, D, Int>,
) -> Option<(CubeTensor<R>, Door<R>)> {
    if !is_cube::<R, B::IntTensorPrimitive>() {
        return None;
    }
    reach(Box::new(tensor.into_primitive())).map(|(tensor, door)| (into_contiguous(tensor), door))
}

fn reach<R: CubeRuntime>(primitive: Box<dyn Any>) -> Option<(CubeTensor<R>, Door<R>)> {
    match primitive.downcast::<CubeTensor<R>>() {
        Ok(tensor) => Some((*tensor, Door::Direct)),
        #[cfg(not(feature = "fusion"))]
        Err(_) => None,
        #[cfg(feature = "fusion")]
        Err(primitive) => match primitive.downcast::<fused::Tensor<R, u8>>() {
            Ok(tensor) => {
                let client = tensor.client.clone();
                Some((fused::resolve(*tensor), Door::FusedBytes(client)))
            }
            Err(primitive) => {
                let tensor = primitive.downcast::<fused::Tensor<R, u32>>().ok()?;
                let client = tensor.client.clone();
                Some((fused::resolve(*tensor), Door::FusedWords(client)))
            }
        },
    }
}

/// Back to the caller's backend.
pub(in crate::ops) fn wrap<B: Backend, R: CubeRuntime, const D: usize>(
    door: &Door<R>,
    tensor: CubeTensor<R>,
) -> Option<Tensor<B, D>> {
    let primitive = leave(door, tensor)?.downcast::<B::FloatTensorPrimitive>().ok()?;
    Some(Tensor::from_primitive(TensorPrimitive::Float(*primitive)))
}

/// The same of integers.
pub(in crate::ops) fn wrap_int<B: Backend, R: CubeRuntime, const D: usize>(
    door: &Door<R>,
    tensor: CubeTensor<R>,
) -> Option<Tensor<B, D, Int>> {
    let primitive = leave(door, tensor)?.downcast::<B::IntTensorPrimitive>().ok()?;
    Some(Tensor::from_primitive(*primitive))
}

fn leave<R: CubeRuntime>(door: &Door<R>, tensor: CubeTensor<R>) -> Option<Box<dyn Any>> {
    match door {
        Door::Direct => Some(Box::new(tensor)),
        #[cfg(feature = "fusion")]
        Door::FusedBytes(client) => Some(Box::new(fused::register(client, tensor))),
        #[cfg(feature = "fusion")]
        Door::FusedWords(client) => Some(Box::new(fused::register(client, tensor))),
        #[cfg(not(feature = "fusion"))]
        Door::Never(..) => None,
    }
}

/// Tensors of burn's fusion, which are operations until somebody asks for their values.
#[cfg(feature = "fusion")]
mod fused {
    use burn_cubecl::fusion::FusionCubeRuntime;
    use burn_cubecl::tensor::CubeTensor;
    use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime};
    use burn_fusion::stream::OperationStreams;
    use burn_fusion::{FusionTensor, NoOp};
    use burn_ir::{BackendIr, InitOperationIr, OperationIr, OperationOutput};

    pub(in crate::ops) type Tensor<R, BT> = FusionTensor<FusionCubeRuntime<R, BT>>;
    pub(in crate::ops) type Client<R, BT> = burn_fusion::Client<FusionCubeRuntime<R, BT>>;
    type Inner<R, BT> = CubeBackend<R, f32, i32, BT>;

    /// Run what the tensor waits for.
    pub(super) fn resolve<R: CubeRuntime, BT: BoolElement>(tensor: Tensor<R, BT>) -> CubeTensor<R> {
        let client = tensor.client.clone();
        client.resolve_tensor_float::<Inner<R, BT>>(tensor)
    }

    /// A tensor that waits for nothing.
    pub(super) fn register<R: CubeRuntime, BT: BoolElement>(
        client: &Client<R, BT>,
        tensor: CubeTensor<R>,
    ) -> Tensor<R, BT> {
        let (shape, dtype) = (tensor.shape.clone(), tensor.dtype);
        let handle = Inner::<R, BT>::float_tensor_handle(tensor);
        let operation = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
        let operation = OperationIr::Init(operation);
        client.register(OperationStreams::default(), operation, NoOp::<Inner<R, BT>>::new()).output()
    }
}
