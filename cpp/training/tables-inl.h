// The table of the instruction set that is being compiled.
#pragma once

#include "training/table.h"

namespace kserve::training {
namespace {

constexpr ButterflyTable kButterfly = {
    load_tile, store_tile, add_tile, butterfly_forward, butterfly_save_passes, butterfly_backward};

template <class T>
constexpr StorageTable<T> storage_table() {
  return {add_norm<T>,
          add_norm_backward<T>,
          glu<T>,
          glu_backward<T>,
          relu_backward<T>,
          add_rows<T>,
          transpose_columns<T>,
          convolution<T>,
          convolution_backward<T>,
          attention<T>,
          attention_backward<T>,
          loss<T>,
          grow<T>,
          grow_backward<T>};
}

constexpr TrainingTable training_table(const char* isa) {
  return {isa, &kButterfly, embed, embed_backward, storage_table<float>(), storage_table<Bfloat>()};
}

}  // namespace
}  // namespace kserve::training
