// From the text of a Metal library to C++ for OpenCL that clang compiles against stdlib/: finds the kernels and how
// their parameters are bound, and rewrites the little that the two languages do not share. Lines stay where they are.
#pragma once

#include <string>
#include <vector>

namespace vmetal {

enum class Binding { Buffer, Position };

struct Parameter {
  std::string name;
  Binding binding = Binding::Buffer;
  unsigned index = 0;          // of the buffer
  bool constantSpace = false;  // in the constant address space, whose offsets have their own alignment
  bool readOnly = false;
};

struct KernelText {
  std::string name;
  unsigned line = 0;
  unsigned maxTotalThreads = 0;  // of [[max_total_threads_per_threadgroup(n)]], or 0
  std::vector<Parameter> parameters;
};

struct Translation {
  std::string code;
  std::vector<KernelText> kernels;
  /** In clang's form, `program_source:LINE:COLUMN: error: TEXT`; empty if the source may be compiled. */
  std::string errors;
};

Translation translate(const std::string& source);

}  // namespace vmetal
