// Tensor maps: descriptions of tensors in a kernel's buffers, encoded when a dispatch is recorded and passed by value.

#pragma once

#include <cstdint>
#include <vector>

#include "../common/device.h"
#include "api.h"

namespace tutti::cuda {

/** What the kernel says of a tensor (TensorMapCode in backends/backend.ts). Sizes innermost first. */
struct TensorMapSource {
  uint32_t binding = 0;
  uint64_t offset = 0;
  uint32_t elementBytes = 0;
  std::vector<uint64_t> dims;
  /** Bytes, of the dimensions after the innermost. */
  std::vector<uint64_t> strides;
  std::vector<uint32_t> box;
};

/**
 * Maps one after another, each as binding, offset, bytes of an element, rank, dims, strides and box.
 * Throws Error E_KERNEL where the numbers do not add up.
 */
std::vector<TensorMapSource> toTensorMaps(const std::vector<uint64_t>& numbers, uint32_t bindings);

struct alignas(64) TensorMap {
  uint64_t words[16];
};

/** Throws Error E_DEVICE where the driver refuses the map. */
TensorMap encode(const Api& api, const TensorMapSource& source, CUdeviceptr buffer);

}  // namespace tutti::cuda
