#include "tensor_map.h"

namespace tutti::cuda {

namespace {

// Of CUtensorMapDataType, …Swizzle and …L2promotion; interleaving and filling with NaN are not used.
constexpr int kUint8 = 0, kUint16 = 1, kUint32 = 2;
constexpr int kSwizzle128 = 3;
constexpr int kPromote256 = 3;
constexpr size_t kMostDims = 5;

}  // namespace

std::vector<TensorMapSource> toTensorMaps(const std::vector<uint64_t>& numbers, uint32_t bindings) {
  std::vector<TensorMapSource> maps;
  size_t at = 0;
  const auto take = [&]() -> uint64_t {
    if (at >= numbers.size()) throw Error("E_KERNEL", "a tensor map ends too early");
    return numbers[at++];
  };
  while (at < numbers.size()) {
    TensorMapSource map;
    map.binding = static_cast<uint32_t>(take());
    map.offset = take();
    map.elementBytes = static_cast<uint32_t>(take());
    const uint64_t rank = take();
    if (map.binding >= bindings || rank < 1 || rank > kMostDims)
      throw Error("E_KERNEL", "a tensor map of buffer " + std::to_string(map.binding) + " with " +
                                  std::to_string(rank) + " dimensions");
    for (uint64_t i = 0; i < rank; ++i) map.dims.push_back(take());
    for (uint64_t i = 1; i < rank; ++i) map.strides.push_back(take());
    for (uint64_t i = 0; i < rank; ++i) map.box.push_back(static_cast<uint32_t>(take()));
    maps.push_back(std::move(map));
  }
  return maps;
}

TensorMap encode(const Api& api, const TensorMapSource& source, CUdeviceptr buffer) {
  if (api.cuTensorMapEncodeTiled == nullptr) throw Error("E_DEVICE", "the NVIDIA driver has no tensor maps");
  TensorMap map;
  // Only the size of elements matters: copies move bits.
  const int type = source.elementBytes == 1 ? kUint8 : source.elementBytes == 2 ? kUint16 : kUint32;
  const uint32_t steps[kMostDims] = {1, 1, 1, 1, 1};
  const auto rank = static_cast<uint32_t>(source.dims.size());
  api.check(api.cuTensorMapEncodeTiled(&map, type, rank, reinterpret_cast<void*>(buffer + source.offset),
                                       source.dims.data(), source.strides.data(), source.box.data(), steps, 0,
                                       kSwizzle128, kPromote256, 0),
            "describing a tensor");
  return map;
}

}  // namespace tutti::cuda
