// Tokens of a Metal source, with comments turned to spaces. Joining their `space` and `text` gives the source again.
#pragma once

#include <string>
#include <vector>

namespace vmetal {

enum class Kind { Name, Number, Text, Mark, Directive, End };

struct Token {
  Kind kind;
  std::string space;  // before the token
  std::string text;
  unsigned line, column;
  bool is(const char* t) const { return text == t && kind != Kind::Text; }
};

/** A directive (`#…` with its continued lines) is one token. Ends with an End token. */
std::vector<Token> tokenize(const std::string& source);

}  // namespace vmetal
