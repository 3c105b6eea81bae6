// Machine code that the driver made of PTX, kept on disk: NVIDIA's own cache is small, shared with all programs, and may
// be off. A cache is no promise: whatever fails here, PTX is compiled.
#pragma once

#include <string>

#include "api.h"

namespace tutti::cuda {

class Cubins {
 public:
  /** `folder` is empty for no cache. `origin`: what else than the PTX decides the code (device, driver). */
  Cubins(const Api& api, std::string folder, std::string origin)
      : api_(api), folder_(std::move(folder)), origin_(std::move(origin)) {}

  /** Loads the module from its file, or links it and writes the file. Null where neither works. The context is current. */
  CUmodule load(const std::string& ptx) const;

 private:
  CUmodule read(const std::string& file, const std::string& ptx) const;
  CUmodule link(const std::string& file, const std::string& ptx) const;
  void write(const std::string& file, const std::string& ptx, const void* code, size_t bytes) const;

  const Api& api_;
  const std::string folder_;
  const std::string origin_;
};

}  // namespace tutti::cuda
