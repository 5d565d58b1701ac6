//! What the tests share: golden checkpoints, tiny random models, and the suite of invariants, each generic over the backend and instantiated
//! for every backend by [`suite!`].

pub mod across;
pub mod adapter;
pub mod decoding;
pub mod golden;
pub mod goldens;
pub mod kernels;
pub mod lora;
pub mod models;
pub mod packed;
pub mod properties;
pub mod routed;

/// One test per invariant for a backend: `suite!(NdArray)`, `suite!(Wgpu, with kernels)` where this project has CubeCL kernels for it.
#[macro_export]
macro_rules! suite {
    ($backend:ty) => {
        $crate::suite!($backend, goldens:
            prompt_logits_and_hidden_states,
            intermediate_values,
            greedy_continuations,
            greedy_continuation_stops_at_the_end_ids,
            batch_rows_equal_the_row_alone,
            prefill_split_anywhere,
        );
        $crate::suite!($backend, properties:
            prefill_equals_prefix_and_steps,
            rows_of_a_batch_do_not_meet,
            padding_changes_nothing,
            permuted_experts_change_nothing,
            experts_in_groups_change_nothing,
            every_expert_on_all_tokens_changes_nothing,
            rope_keeps_norms,
            rope_depends_on_position_differences,
            rms_norm_is_scale_invariant,
            chunked_layers_see_their_chunk,
            linear_equals_its_definition,
            grouped_linear_equals_its_definition,
            truncated_cache_goes_on_as_if_new,
            return_modes_agree,
        );
        $crate::suite!($backend, packed:
            packed_linear_equals_its_definition,
            packed_rows_are_unpacked_bit_for_bit,
            packed_goldens_stay_close,
        );
        $crate::suite!($backend, lora:
            adapters_add_their_definition,
            adapters_number_their_values,
            fresh_adapters_change_nothing,
            merged_equals_adapted,
            saved_adapters_come_back,
        );
        $crate::suite!($backend, across:
            linear_agrees,
            linear_takes_the_type_of_its_input,
            linear_keeps_its_sums,
            grouped_linear_agrees,
            packed_weights_agree,
            attention_agrees,
            norm_and_rotation_agree,
            norm_and_gate_agree,
            argmax_agrees,
            decode_attention_agrees,
            lookup_agrees,
            layers_and_models_agree,
        );
        $crate::suite!($backend, routed:
            routed_experts_agree,
        );
        $crate::suite!($backend, decoding:
            decoding_agrees_with_traced_decoding,
            greedy_steps_go_ahead,
            greedy_steps_of_several_go_ahead,
            greedy_requests_share_a_session,
        );
    };
    ($backend:ty, with kernels) => {
        $crate::suite!($backend);
        $crate::suite!($backend, kernels: kernels_are_what_runs);
    };
    ($backend:ty, $module:ident: $($name:ident),* $(,)?) => {
        mod $module {
            $(#[test]
            fn $name() {
                if $crate::adapter::ready::<$backend>(stringify!($name)) {
                    $crate::$module::$name::<$backend>();
                }
            })*
        }
    };
}
