// What Metal and C++ for OpenCL do not share, outside of kernels' signatures: names that are types, directives, forms that
// Metal refuses, and expressions that are written in another way.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "lexer.h"

namespace vmetal {

using Tokens = std::vector<Token>;
using Report = std::function<void(const Token& at, const std::string& text)>;

class Dialect {
 public:
  /** Learns the names of a source. */
  Dialect(const Tokens& tokens, Report report);

  /** Takes out `#include <metal_…>`, translates pragmas, rewrites the text of macros. */
  void directives(Tokens& tokens);
  /** Reports what clang would take: double, goto, pointers without an address space, … */
  void refuse(const Tokens& tokens) const;
  /** Swizzles, `?:`, and bfloat literals. */
  void rewrite(Tokens& tokens) const;

 private:
  Report error;
  std::set<std::string> types_;      // names of types: Metal's and the source's
  std::set<std::string> ownFields_;  // names that may look like swizzles but are declared here
  bool vectors_ = false, metalIncluded_ = false, usesMetal_ = false;
};

/** `float4`, `packed_half3`, `vec`, … */
bool isVectorName(const std::string& name);

}  // namespace vmetal
