// Splits a Metal source into tokens.
#include "lexer.h"

#include <cctype>
#include <cstring>

namespace vmetal {
namespace {

bool nameStart(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool nameRest(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

constexpr const char* kMarks[] = {"<<=", ">>=", "...", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&",
                                  "||",  "+=",  "-=",  "*=", "/=", "%=", "&=", "|=", "^=", "::", "[[", "]]"};

}  // namespace

std::vector<Token> tokenize(const std::string& s) {
  std::vector<Token> tokens;
  size_t at = 0, lineStart = 0;
  unsigned line = 1;
  bool freshLine = true;
  std::vector<bool> brackets;  // open ones; true: `[[`
  std::string space;
  const auto newline = [&](size_t i) {
    ++line;
    lineStart = i + 1;
    freshLine = true;
  };
  const auto push = [&](Kind kind, size_t end) {
    tokens.push_back({kind, std::move(space), s.substr(at, end - at), line, unsigned(at - lineStart + 1)});
    space.clear();
    freshLine = false;
    at = end;
  };
  while (at < s.size()) {
    const char c = s[at];
    if (c == '\n') {
      space += c;
      newline(at++);
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      space += c;
      ++at;
    } else if (c == '/' && s.compare(at, 2, "//") == 0) {
      while (at < s.size() && s[at] != '\n') ++at;
    } else if (c == '/' && s.compare(at, 2, "/*") == 0) {
      const size_t end = s.find("*/", at + 2);
      const size_t stop = end == std::string::npos ? s.size() : end + 2;
      space += ' ';
      for (; at < stop; ++at)
        if (s[at] == '\n') {
          space += '\n';
          newline(at);
        }
    } else if (c == '#' && freshLine) {
      size_t end = at;
      unsigned continued = 0;
      size_t last = lineStart;
      while (end < s.size() && s[end] != '\n') {
        if (s.compare(end, 2, "\\\n") == 0) {
          ++continued;
          last = end + 2;
          ++end;
        } else if (s.compare(end, 2, "//") == 0) {
          break;
        }
        ++end;
      }
      push(Kind::Directive, end);
      line += continued;
      lineStart = last;
    } else if (c == '"' || c == '\'') {
      size_t end = at + 1;
      while (end < s.size() && s[end] != c && s[end] != '\n') end += s[end] == '\\' ? 2 : 1;
      push(Kind::Text, end < s.size() ? end + 1 : s.size());
    } else if (nameStart(c)) {
      size_t end = at;
      while (end < s.size() && nameRest(s[end])) ++end;
      push(Kind::Name, end);
    } else if (std::isdigit(static_cast<unsigned char>(c)) ||
               (c == '.' && at + 1 < s.size() && std::isdigit(static_cast<unsigned char>(s[at + 1])))) {
      size_t end = at;
      while (end < s.size() && (nameRest(s[end]) || s[end] == '.' || s[end] == '\'' ||
                                ((s[end] == '+' || s[end] == '-') && std::strchr("eEpP", s[end - 1]) &&
                                 !(s[at] == '0' && at + 1 < s.size() && (s[at + 1] | 32) == 'x' && (s[end - 1] | 32) == 'e'))))
        ++end;
      push(Kind::Number, end);
    } else {
      size_t length = 1;
      for (const char* mark : kMarks)
        if (s.compare(at, std::strlen(mark), mark) == 0) {
          length = std::strlen(mark);
          break;
        }
      // `a[b[0]]` keeps its two closing brackets, `[[buffer(0)]]` closes as it opened.
      if (s.compare(at, 2, "[[") == 0) {
        brackets.push_back(true);
      } else if (c == '[') {
        brackets.push_back(false);
      } else if (c == ']') {
        const bool attribute = !brackets.empty() && brackets.back();
        if (!attribute) length = 1;
        if (!brackets.empty()) brackets.pop_back();
      }
      push(Kind::Mark, at + length);
    }
  }
  tokens.push_back({Kind::End, space, "", line, unsigned(at - lineStart + 1)});
  return tokens;
}

}  // namespace vmetal
