// Compiled kernels on disk: one binary archive for each kernel, named by its content.

#pragma once

#include <string>

#include "../common/resources.h"
#include "runtime.h"

namespace tutti::metal {

class Archives {
 public:
  /** `folder` may be empty: nothing is kept then. `origin`: device and system, which the machine code depends on. */
  Archives(const Runtime& runtime, id device, std::string folder, std::string origin)
      : rt_(runtime), device_(device), folder_(std::move(folder)), origin_(std::move(origin)) {}

  /**
   * The pipeline of a descriptor that was made of `source`, from its archive where there is one. Nil and `error` if
   * not.
   */
  Ref pipeline(id descriptor, const gpu::KernelSource& source, id* error) const;

 private:
  std::string fileFor(const gpu::KernelSource& source) const;
  Ref open(const std::string& file) const;
  void save(id archive, const std::string& file) const;

  const Runtime& rt_;
  const id device_;
  const std::string folder_;
  const std::string origin_;
};

}  // namespace tutti::metal
