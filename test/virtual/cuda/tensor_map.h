// CUtensorMap as this device encodes it in the 128 opaque bytes, and the swizzles of shared memory that the copies with
// tensor maps and wgmma share.
#pragma once

#include <cstdint>

namespace vcuda {

struct TensorMap {
  uint32_t magic;
  uint8_t type, rank, interleave, swizzle, fill, elementBytes;
  uint16_t box[5];
  uint8_t steps[5];
  uint64_t address;
  uint32_t dims[5];
  uint64_t strides[4];  // bytes, of dimensions 1 and up
};
static_assert(sizeof(TensorMap) <= 128);
constexpr uint32_t kTensorMapMagic = 0x7e5045a9;

/** Swizzle modes by the width of the pattern: 16-byte units are exchanged within it. */
enum class Swizzle : uint8_t { None, B32, B64, B128 };

/** The pattern is anchored at multiples of 1024 bytes of the shared address: bits 4-6 are xor-ed with bits 7-9. */
inline uint32_t swizzled(uint32_t address, Swizzle mode) {
  switch (mode) {
    case Swizzle::None: return address;
    case Swizzle::B32: return address ^ ((address >> 3) & 0x10);
    case Swizzle::B64: return address ^ ((address >> 3) & 0x30);
    case Swizzle::B128: return address ^ ((address >> 3) & 0x70);
  }
  return address;
}

}  // namespace vcuda
