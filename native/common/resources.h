// What an open GPU device holds: buffers, kernels and recorded lists. Drivers derive from these and add their handles.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tutti::gpu {

class Device;

/** Something with handles of a driver. Destroyed by its last owner or when its device closes, whichever is first. */
class Resource {
 public:
  explicit Resource(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  virtual ~Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;

  /** Gives the handles back. Called once, under the registry's lock; a constructor that fails calls it itself. */
  virtual void destroy() = 0;
  /** Bytes of device memory. */
  virtual uint64_t footprint() const { return 0; }
  const Device* device() const { return device_.get(); }

 protected:
  /** First call of every final class's destructor. */
  void retire();

 private:
  const std::shared_ptr<Device> device_;
};

class Buffer : public Resource {
 public:
  Buffer(std::shared_ptr<Device> device, uint64_t wanted)
      : Resource(std::move(device)), bytes(wanted), size(std::max<uint64_t>((wanted + 3) / 4 * 4, 4)) {}
  uint64_t footprint() const override { return size; }

  const uint64_t bytes;
  /** At least 4, in whole words: kernels read and write packed types by the word. */
  const uint64_t size;
  /** Where the host sees the buffer, or null. */
  uint8_t* mapped = nullptr;
};

/** Code as a renderer gives it; `text` or `words`. */
struct KernelSource {
  std::string name;
  std::string entry;
  std::string text;
  std::vector<uint32_t> words;
  uint32_t workgroup[3] = {1, 1, 1};
  uint32_t bindings = 0;
  uint32_t scalarBytes = 0;
  /** 0: any. */
  uint32_t subgroupSize = 0;
  /** Shared memory that each launch gives. */
  uint32_t dynamicShared = 0;
  /** Tensors in the buffers, as a driver that has such maps reads them. */
  std::vector<uint64_t> tensorMaps;
};

class Kernel : public Resource {
 public:
  Kernel(std::shared_ptr<Device> device, const KernelSource& source)
      : Resource(std::move(device)),
        bindings(source.bindings),
        scalarBytes(source.scalarBytes),
        workgroup{source.workgroup[0], source.workgroup[1], source.workgroup[2]} {}

  const uint32_t bindings;
  const uint32_t scalarBytes;
  const uint32_t workgroup[3];
};

struct Binding {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct Command {
  enum class Kind { dispatch, copy, fill, barrier };
  Kind kind = Kind::barrier;
  std::shared_ptr<Kernel> kernel;
  uint32_t grid[3] = {};
  std::vector<Binding> bindings;  // dispatch: all; copy: from, to; fill: to
  std::vector<uint8_t> scalars;
  uint8_t byte = 0;

  /** Whether it does anything to memory. */
  bool works() const {
    switch (kind) {
      case Kind::dispatch:
        return grid[0] != 0 && grid[1] != 0 && grid[2] != 0;
      case Kind::copy:
      case Kind::fill:
        return bindings[0].bytes != 0;
      case Kind::barrier:
        return false;
    }
    return false;
  }
};

/** A recorded list, launched whole by each submission. */
class List : public Resource {
 public:
  List(std::shared_ptr<Device> device, std::vector<Command> recorded)
      : Resource(std::move(device)),
        commands(std::move(recorded)),
        dispatches(static_cast<size_t>(std::count_if(
            commands.begin(), commands.end(), [](const Command& c) { return c.kind == Command::Kind::dispatch; }))) {}

  const std::vector<Command> commands;
  const size_t dispatches;
};

}  // namespace tutti::gpu
