// Rewrites of expressions and directives, and the errors of Metal that clang does not have.
#include "dialect.h"

#include <algorithm>
#include <cctype>
#include <map>

namespace vmetal {
namespace {

const std::set<std::string> kSpaces = {"device", "constant", "threadgroup", "thread"};
const std::map<std::string, std::string> kRefused = {
    {"double", "'double' is not supported in Metal"},
    {"goto", "goto is not supported in Metal"},
    {"new", "cannot use 'new' in Metal"},
    {"delete", "cannot use 'delete' in Metal"},
    {"virtual", "virtual functions are not supported in Metal"},
    {"dynamic_cast", "cannot use dynamic_cast in Metal"},
    {"typeid", "cannot use typeid in Metal"},
    {"try", "cannot use exceptions in Metal"},
    {"throw", "cannot use exceptions in Metal"},
    {"thread_local", "thread_local is not supported in Metal"},
    {"function_constant", "function constants are not supported by the virtual device"},
    {"stage_in", "[[stage_in]] is not supported by the virtual device"},
};
const std::set<std::string> kScalars = {"bool",    "char",     "uchar",   "short",    "ushort",  "int",      "uint",
                                        "long",    "ulong",    "half",    "bfloat",   "float",   "int8_t",   "uint8_t",
                                        "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t", "size_t"};
/** What may stand around the name of a type in a declaration. */
const std::set<std::string> kBeside = {"const",  "volatile",  "::",     "metal",     "struct",
                                       "static", "constexpr", "inline", "METAL_FUNC"};

bool swizzle(const std::string& name) {
  if (name.size() < 2 || name.size() > 4) return false;
  return name.find_first_not_of("xyzw") == std::string::npos || name.find_first_not_of("rgba") == std::string::npos;
}

}  // namespace

bool isVectorName(const std::string& name) {
  if (name == "vec") return true;
  const std::string base = name.rfind("packed_", 0) == 0 ? name.substr(7) : name;
  if (base.size() < 2 || base.back() < '2' || base.back() > '4') return false;
  return kScalars.count(base.substr(0, base.size() - 1)) > 0;
}

Dialect::Dialect(const Tokens& tokens, Report report) : error(std::move(report)) {
  types_ = kScalars;
  types_.insert({"void", "auto", "unsigned", "signed"});
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const Token& t = tokens[i];
    if (t.kind != Kind::Name) {
      if (t.kind == Kind::Directive && t.text.find("vec") != std::string::npos) vectors_ = true;
      continue;
    }
    if (isVectorName(t.text)) {
      types_.insert(t.text);
      vectors_ = true;
    }
    if (t.text == "metal") usesMetal_ = true;
    if ((t.text == "struct" || t.text == "class" || t.text == "typename" || t.text == "enum" || t.text == "union") &&
        tokens[i + 1].kind == Kind::Name)
      types_.insert(tokens[i + 1].text);
    if (t.text == "using" && tokens[i + 2].is("=")) types_.insert(tokens[i + 1].text);
    if (t.text == "typedef")
      for (size_t k = i; k + 1 < tokens.size() && !tokens[k].is(";"); ++k)
        if (tokens[k + 1].is(";") && tokens[k].kind == Kind::Name) types_.insert(tokens[k].text);
    if (swizzle(t.text) && (i == 0 || (!tokens[i - 1].is(".") && !tokens[i - 1].is("->")))) ownFields_.insert(t.text);
  }
}

void Dialect::directives(Tokens& tokens) {
  for (Token& t : tokens) {
    if (t.kind != Kind::Directive) continue;
    size_t at = t.text.find_first_not_of(" \t", 1);
    const std::string body = at == std::string::npos ? "" : t.text.substr(at);
    if (body.rfind("include", 0) == 0) {
      const size_t open = body.find_first_of("<\""), close = body.find_first_of(">\"", open + 1);
      const std::string name = open == std::string::npos ? "" : body.substr(open + 1, close - open - 1);
      if (name.rfind("metal_", 0) == 0 && name.find('/') == std::string::npos)
        metalIncluded_ = true;
      else
        error(t, "'" + name + "' file not found");
      t.text.clear();
    } else if (body.rfind("pragma", 0) == 0) {
      const size_t metal = t.text.find("METAL");
      if (metal != std::string::npos) {
        if (t.text.find("fp contract") != std::string::npos)
          t.text.replace(metal, 5, "clang");
        else if (t.text.find("fp math_mode") != std::string::npos)
          t.text.clear();
        else
          error(t, "this pragma is not known to the virtual device");
      }
    } else if (body.rfind("define", 0) == 0) {
      // The replacement text is rewritten like the rest; name and parameters stay.
      size_t name = body.find_first_not_of(" \t", 6);
      size_t end = name == std::string::npos ? body.size() : name;
      while (end < body.size() && (std::isalnum(static_cast<unsigned char>(body[end])) || body[end] == '_')) ++end;
      if (end < body.size() && body[end] == '(') end = std::min(body.size(), body.find(')', end) + 1);
      Tokens inner = tokenize(body.substr(end));
      rewrite(inner);
      std::string text = "#" + body.substr(0, end);
      for (const Token& k : inner) text += k.space + k.text;
      t.text = text;
    }
  }
  if (!metalIncluded_ && usesMetal_) error(tokens.back(), "use of undeclared identifier 'metal': <metal_stdlib> is not included");
}

void Dialect::refuse(const Tokens& tokens) const {
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    const Token& t = tokens[i];
    if (t.kind == Kind::Name) {
      const auto refused = kRefused.find(t.text);
      if (refused != kRefused.end() && !(i > 0 && (tokens[i - 1].is(".") || tokens[i - 1].is("->")))) error(t, refused->second);
    }
    if ((!t.is("*") && !t.is("&")) || i == 0 || tokens[i - 1].kind != Kind::Name) continue;
    // `T *` is a pointer type if T is a type; the words around T must then name an address space.
    bool type = false, space = false;
    size_t first = i;
    while (first > 0) {
      const Token& k = tokens[first - 1];
      if (k.kind != Kind::Name && !k.is("::")) break;
      if (kSpaces.count(k.text))
        space = true;
      else if (types_.count(k.text))
        type = true;
      else if (!kBeside.count(k.text))
        break;
      --first;
    }
    if (type && !space && !(first > 0 && tokens[first - 1].is("operator")))
      error(t, std::string(t.is("*") ? "pointer" : "reference") + " type must have explicit address space qualifier");
  }
}

void Dialect::rewrite(Tokens& tokens) const {
  std::vector<int> questions;  // depths of the open `?`
  int depth = 0;
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    Token& t = tokens[i];
    if (t.kind == Kind::Directive || t.kind == Kind::Text) continue;
    if (t.is("(") || t.is("[") || t.is("{")) ++depth;
    if (t.is(")") || t.is("]") || t.is("}")) {
      --depth;
      while (!questions.empty() && questions.back() > depth) questions.pop_back();
    }
    if (t.is(";")) questions.clear();
    if (t.is("?") && vectors_) {
      questions.push_back(depth);
      t.text = "? metal::__value *";
    } else if (t.is(":") && !questions.empty() && questions.back() == depth) {
      questions.pop_back();
      t.text = ": metal::__value *";
    } else if (t.kind == Kind::Number && t.text.size() > 2 && t.text.rfind("0x", 0) != 0 &&
               (t.text.compare(t.text.size() - 2, 2, "bf") == 0 || t.text.compare(t.text.size() - 2, 2, "BF") == 0)) {
      t.text = "metal::bfloat(" + t.text.substr(0, t.text.size() - 2) + "f)";
    } else if ((t.is(".") || t.is("->")) && tokens[i + 1].kind == Kind::Name && swizzle(tokens[i + 1].text) &&
               !ownFields_.count(tokens[i + 1].text)) {
      std::string list;
      for (const char c : tokens[i + 1].text) {
        const size_t component = c == 'w' ? 3 : c >= 'x' ? size_t(c - 'x') : std::string("rgba").find(c);
        list += (list.empty() ? "" : ", ") + std::to_string(component);
      }
      if (i + 2 < tokens.size() && tokens[i + 2].is("=")) {
        size_t end = i + 3;
        int inner = 0;
        while (end + 1 < tokens.size() && !(inner == 0 && (tokens[end].is(";") || tokens[end].is(",") || tokens[end].is(")")))) {
          inner += tokens[end].is("(") || tokens[end].is("[") || tokens[end].is("{")   ? 1
                   : tokens[end].is(")") || tokens[end].is("]") || tokens[end].is("}") ? -1
                                                                                       : 0;
          ++end;
        }
        tokens[i + 1].text = "template __assign<" + list + ">";
        tokens[i + 2].text = "(";
        tokens[end].space = ")" + tokens[end].space;
      } else {
        tokens[i + 1].text = "template __swizzle<" + list + ">()";
      }
      ++i;
    }
  }
}

}  // namespace vmetal
