// Plain CUDA kernels, as a textbook has them, for a baseline that no library's tuning blurs: a·x + y, a matrix product
// with 64×64 tiles in shared memory and 4×4 results a thread, softmax with a block for each row. Built as a library
// that bench/nvidia/peer.py calls with addresses of device memory; every call returns cudaGetLastError of its launch.
#include <cuda_runtime.h>
#include <math_constants.h>

namespace {

__global__ void saxpyKernel(long long count, float a, const float* __restrict__ x, const float* __restrict__ y,
                            float* __restrict__ result) {
  const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
  for (long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    result[i] = a * x[i] + y[i];
  }
}

constexpr int tile = 64;
constexpr int depth = 16;
constexpr int each = 4;
constexpr int side = tile / each;

/** a [m, k] times b [k, n], row-major; edges of any size. */
__global__ void __launch_bounds__(side* side) gemmKernel(int m, int n, int k, const float* __restrict__ a,
                                                         const float* __restrict__ b, float* __restrict__ c) {
  __shared__ float as[depth][tile];
  __shared__ float bs[depth][tile];
  const int row = blockIdx.y * tile;
  const int column = blockIdx.x * tile;
  const int thread = threadIdx.y * side + threadIdx.x;
  float sums[each][each] = {};
  for (int start = 0; start < k; start += depth) {
    for (int i = thread; i < tile * depth; i += side * side) {
      const int r = i / depth, d = i % depth;
      as[d][r] = row + r < m && start + d < k ? a[static_cast<size_t>(row + r) * k + start + d] : 0.0f;
    }
    for (int i = thread; i < tile * depth; i += side * side) {
      const int d = i / tile, q = i % tile;
      bs[d][q] = start + d < k && column + q < n ? b[static_cast<size_t>(start + d) * n + column + q] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < depth; d++) {
      float left[each], right[each];
#pragma unroll
      for (int i = 0; i < each; i++) {
        left[i] = as[d][threadIdx.y * each + i];
        right[i] = bs[d][threadIdx.x * each + i];
      }
#pragma unroll
      for (int i = 0; i < each; i++) {
#pragma unroll
        for (int j = 0; j < each; j++) sums[i][j] += left[i] * right[j];
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < each; i++) {
    const int r = row + threadIdx.y * each + i;
    for (int j = 0; j < each; j++) {
      const int q = column + threadIdx.x * each + j;
      if (r < m && q < n) c[static_cast<size_t>(r) * n + q] = sums[i][j];
    }
  }
}

constexpr int rowThreads = 256;

template <class Combine>
__device__ float blockReduce(float value, float* shared, Combine combine) {
  const int thread = threadIdx.x;
  shared[thread] = value;
  __syncthreads();
  for (int half = rowThreads / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] = combine(shared[thread], shared[thread + half]);
    __syncthreads();
  }
  const float result = shared[0];
  __syncthreads();
  return result;
}

__global__ void __launch_bounds__(rowThreads) softmaxKernel(int columns, const float* __restrict__ x,
                                                            float* __restrict__ y) {
  __shared__ float shared[rowThreads];
  const size_t base = static_cast<size_t>(blockIdx.x) * columns;
  float largest = -CUDART_INF_F;
  for (int i = threadIdx.x; i < columns; i += rowThreads) largest = fmaxf(largest, x[base + i]);
  largest = blockReduce(largest, shared, [](float a, float b) { return fmaxf(a, b); });
  float sum = 0;
  for (int i = threadIdx.x; i < columns; i += rowThreads) sum += expf(x[base + i] - largest);
  sum = blockReduce(sum, shared, [](float a, float b) { return a + b; });
  for (int i = threadIdx.x; i < columns; i += rowThreads) y[base + i] = expf(x[base + i] - largest) / sum;
}

}  // namespace

extern "C" {

int plain_saxpy(long long count, float a, const float* x, const float* y, float* result, cudaStream_t stream) {
  const long long blocks = (count + 255) / 256;
  saxpyKernel<<<static_cast<unsigned>(blocks < 16384 ? blocks : 16384), 256, 0, stream>>>(count, a, x, y, result);
  return cudaGetLastError();
}

int plain_gemm(int m, int n, int k, const float* a, const float* b, float* c, cudaStream_t stream) {
  const dim3 grid((n + tile - 1) / tile, (m + tile - 1) / tile);
  gemmKernel<<<grid, dim3(side, side), 0, stream>>>(m, n, k, a, b, c);
  return cudaGetLastError();
}

int plain_softmax(int rows, int columns, const float* x, float* y, cudaStream_t stream) {
  softmaxKernel<<<rows, rowThreads, 0, stream>>>(columns, x, y);
  return cudaGetLastError();
}

}
