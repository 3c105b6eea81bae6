// Compiles a translated library with clang into a shared object, kept in a cache folder by its content.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontend.h"

namespace vmetal {

struct Group;

struct CompiledKernel {
  KernelText text;
  void (*entry)(Group*) = nullptr;
  /** Of each threadgroup variable, in order. */
  struct Variable {
    unsigned long bytes = 0, alignment = 1;
  };
  std::vector<Variable> variables;
};

struct CompileOptions {
  /** Whether the compiler may assume that there is no NaN and no infinity, and reassociate: Metal's default. */
  bool fastMath = true;
};

struct Compiled {
  std::vector<CompiledKernel> kernels;
  std::string source;  // the Metal text, for messages
  std::string object;  // path of the shared object
  std::string key;     // hash of everything that determines it
  std::string code;    // what clang compiled
  CompileOptions options;
  std::shared_ptr<void> loaded;  // the object in this process; unloaded with the last copy
};

/** Throws std::runtime_error with the compiler's text. */
Compiled compile(const std::string& source, const CompileOptions& options);

/** Line of the source that an address of compiled code stands for, as `line 12: text`; empty if not known. */
std::string lineOf(const void* address, const Compiled& in);

std::string hashOf(const std::string& text);
std::string cacheFolder();

}  // namespace vmetal
