// Training's operations over a whole batch, on several threads. For a given number of threads every sum is
// made in the same order each time. T is float or Bfloat.
#pragma once

#include <cstddef>
#include <vector>

#include "training/table.h"

namespace kserve::training {

// The kernels, and how many threads may run them.
struct Team {
  const TrainingTable& table;
  std::size_t threads;
};

template <class T>
void add_norm(const Team& team, const AddNorm<T>& work, std::size_t rows);
// grad_gain and grad_bias (d) are overwritten.
template <class T>
void add_norm_backward(const Team& team, const AddNormBackward<T>& work, std::size_t rows, float* grad_gain,
                       float* grad_bias);

template <class T>
void glu(const Team& team, const T* u, std::size_t d, std::size_t rows, T* y);
template <class T>
void glu_backward(const Team& team, const T* u, const T* grad_y, std::size_t d, std::size_t rows, T* grad_u);
template <class T>
void relu_backward(const Team& team, const T* y, const T* grad_y, std::size_t numbers, T* grad_x);
template <class T>
void add_rows(const Team& team, const T* x, std::size_t rows, std::size_t columns, float* sums);

template <class T>
void transpose(const Team& team, const T* x, Sizes sizes, T* y);

void embed(const Team& team, const Embed& work, std::size_t rows, float* x);
// grad_table is added to.
void embed_backward(const Team& team, const Embed& work, const float* grad_x, std::size_t rows,
                    float* grad_table);

template <class T>
void convolution(const Team& team, const Convolution<T>& work, std::size_t sentences);
template <class T>
void convolution_backward(const Team& team, const ConvolutionBackward<T>& work, std::size_t sentences);
template <class T>
void attention(const Team& team, const Attention<T>& work, std::size_t sentences);
template <class T>
void attention_backward(const Team& team, const AttentionBackward<T>& work, std::size_t sentences);

// totals: smoothed loss, negative log-likelihood.
template <class T>
void loss(const Team& team, const Loss<T>& work, std::size_t rows, double (&totals)[2]);

template <class T>
void grow(const Team& team, const std::vector<Growth<T>>& work);
template <class T>
void grow_backward(const Team& team, const std::vector<GrowthBackward<T>>& work);

}  // namespace kserve::training
