// Counter samples: see times.h.

#include "times.h"

#include <algorithm>

#include "facts.h"

namespace tutti::metal {

double Clock::nanosecondsPerTick() const {
  uint64_t cpu = 0, gpu = 0;
  rt_.send.sampleTimestamps(device_, &cpu, &gpu);
  // GPUs of Apple count nanoseconds.
  if (gpu <= gpu_ || cpu <= cpu_) return 1;
  return static_cast<double>(cpu - cpu_) / static_cast<double>(gpu - gpu_);
}

PassTimes::PassTimes(const Runtime& runtime, id device, size_t dispatches) : rt_(runtime), dispatches_(dispatches) {
  for (size_t at = 0; at < 2 * dispatches; at += kSamples) {
    const Ref descriptor = Ref::adopt(rt_, rt_.send.new_(rt_.classes.MTLCounterSampleBufferDescriptor));
    rt_.send.setCounterSet(descriptor.get(), timestampCounters(rt_, device));
    rt_.send.setStorageMode(descriptor.get(), 0);  // shared
    rt_.send.setSampleCount(descriptor.get(), std::min(2 * dispatches - at, kSamples));
    id error = nullptr;
    samples_.push_back(Ref::adopt(rt_, rt_.send.newCounterSampleBuffer(device, descriptor.get(), &error)));
    if (!samples_.back()) throw Error("E_DEVICE", "making a buffer of timestamps failed: " + rt_.words(error));
  }
}

id PassTimes::begin(Encoder& encoder, size_t i) const {
  return encoder.timedCompute(samples_[2 * i / kSamples].get(), 2 * i % kSamples);
}

std::vector<uint64_t> PassTimes::ticks() const {
  std::vector<uint64_t> all;
  for (size_t i = 0; i < samples_.size(); ++i) {
    const NSUInteger count = std::min(2 * dispatches_ - i * kSamples, kSamples);
    id data = rt_.send.resolveCounterRange(samples_[i].get(), {0, count});
    const auto* stamps = data == nullptr ? nullptr : static_cast<const uint64_t*>(rt_.send.bytes(data));
    if (stamps == nullptr || rt_.send.length(data) < count * sizeof(uint64_t))
      throw Error("E_DEVICE", "the device gives no timestamps");
    for (NSUInteger k = 0; k + 1 < count; k += 2) {
      const uint64_t from = stamps[k], to = stamps[k + 1];
      all.push_back(from == kCounterError || to == kCounterError || to < from ? 0 : to - from);
    }
  }
  return all;
}

}  // namespace tutti::metal
