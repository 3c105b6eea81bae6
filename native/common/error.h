// The error of native code, for parts that know no JavaScript too.

#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace tutti {

/** An error with a stable code (`TuttiError.code` on the JavaScript side). Throw it from off-thread work. */
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

}  // namespace tutti
