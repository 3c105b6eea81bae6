// How long dispatches took: from counters at the ends of compute passes, or from the times of command buffers.

#pragma once

#include <vector>

#include "encoder.h"

namespace tutti::metal {

/** Relates the ticks of a GPU's timestamps to time. */
class Clock {
 public:
  Clock(const Runtime& runtime, id device) : rt_(runtime), device_(device) {
    rt_.send.sampleTimestamps(device_, &cpu_, &gpu_);
  }
  /** From what passed on both since the clock was made. */
  double nanosecondsPerTick() const;

 private:
  const Runtime& rt_;
  const id device_;
  uint64_t cpu_ = 0;
  uint64_t gpu_ = 0;
};

/** Two counter samples for each of a number of dispatches. */
class PassTimes {
 public:
  /** Throws Error E_DEVICE. */
  PassTimes(const Runtime& runtime, id device, size_t dispatches);

  /** The encoder for dispatch `i`. */
  id begin(Encoder& encoder, size_t i) const;
  /** Ticks that dispatch `i` took, once it is done. */
  std::vector<uint64_t> ticks() const;

 private:
  /** As Metal allows in one sample buffer. */
  static constexpr size_t kSamples = 4096;

  const Runtime& rt_;
  const size_t dispatches_;
  std::vector<Ref> samples_;
};

}  // namespace tutti::metal
