// Finds the kernels of a library. A `kernel` function becomes a static one, called by an entry that takes threads one after
// the other; its threadgroup variables become references to the memory of the running threadgroup.
#include "frontend.h"

#include <algorithm>
#include <map>
#include <set>

#include "dialect.h"
#include "lexer.h"

namespace vmetal {
namespace {

// Attributes of kernel parameters: how many components they may have and what they are, of thread `i` at (x, y, z).
struct Position {
  int components;
  const char* expression;
};
const std::map<std::string, Position> kPositions = {
    {"thread_position_in_grid",
     {3, "g->position[0] * g->size[0] + x, g->position[1] * g->size[1] + y, g->position[2] * g->size[2] + z"}},
    {"thread_position_in_threadgroup", {3, "x, y, z"}},
    {"threadgroup_position_in_grid", {3, "g->position[0], g->position[1], g->position[2]"}},
    {"threads_per_threadgroup", {3, "g->size[0], g->size[1], g->size[2]"}},
    {"dispatch_threads_per_threadgroup", {3, "g->size[0], g->size[1], g->size[2]"}},
    {"threadgroups_per_grid", {3, "g->groups[0], g->groups[1], g->groups[2]"}},
    {"threads_per_grid", {3, "g->groups[0] * g->size[0], g->groups[1] * g->size[1], g->groups[2] * g->size[2]"}},
    {"thread_index_in_threadgroup", {1, "i, 0, 0"}},
    {"thread_index_in_simdgroup", {1, "i & 31, 0, 0"}},
    {"simdgroup_index_in_threadgroup", {1, "i >> 5, 0, 0"}},
    {"simdgroups_per_threadgroup", {1, "(g->count + 31) >> 5, 0, 0"}},
    {"dispatch_simdgroups_per_threadgroup", {1, "(g->count + 31) >> 5, 0, 0"}},
    {"threads_per_simdgroup", {1, "32, 0, 0"}},
    {"thread_execution_width", {1, "32, 0, 0"}},
    {"thread_index_in_quadgroup", {1, "i & 3, 0, 0"}},
    {"quadgroup_index_in_threadgroup", {1, "i >> 2, 0, 0"}},
    {"quadgroups_per_threadgroup", {1, "(g->count + 3) >> 2, 0, 0"}},
};

class Frontend {
 public:
  explicit Frontend(const std::string& source) : tokens_(tokenize(source)) {}

  Translation run() {
    Dialect dialect(tokens_, [this](const Token& at, const std::string& text) { error(at, text); });
    dialect.directives(tokens_);
    dialect.refuse(tokens_);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].is("[[") && tokens_[i + 1].is("kernel")) {
        if (!tokens_[i + 2].is("]]"))
          error(tokens_[i], "only [[kernel]] is supported by the virtual device here");
        else
          i = kernel(i, i + 3);
      } else if (tokens_[i].is("kernel")) {
        i = kernel(i, i + 1);
      }
    }
    dialect.rewrite(tokens_);
    out_.code = "#line 1 \"program_source\"\n";
    for (const Token& t : tokens_) out_.code += t.space + t.text;
    out_.code += "\n" + entries_;
    return std::move(out_);
  }

 private:
  Tokens tokens_;
  Translation out_;
  std::string entries_;

  void error(const Token& at, const std::string& text) {
    out_.errors += "program_source:" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": error: " + text + "\n";
  }

  size_t closing(size_t open) const {
    int depth = 0;
    for (size_t i = open; i < tokens_.size(); ++i) {
      const Token& t = tokens_[i];
      if (t.is("(") || t.is("{") || t.is("[") || t.is("[[")) ++depth;
      if ((t.is(")") || t.is("}") || t.is("]") || t.is("]]")) && --depth == 0) return i;
    }
    return tokens_.size() - 1;
  }

  std::string join(size_t from, size_t to) const {
    std::string text;
    for (size_t i = from; i < to; ++i) text += (text.empty() ? "" : " ") + tokens_[i].text;
    return text;
  }
  void erase(size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) tokens_[i].text.clear();  // the space before it stays, and so do line breaks
  }

  /** A kernel whose keyword is at `keyword`; its return type begins at `at`. Returns the last token handled. */
  size_t kernel(size_t keyword, size_t at) {
    for (size_t back = keyword; back > 0 && !tokens_[back - 1].is(";") && !tokens_[back - 1].is("}"); --back)
      if (tokens_[back - 1].is("template")) {
        error(tokens_[keyword], "templates of kernels are not supported by the virtual device");
        return keyword;
      }
    KernelText k;
    k.line = tokens_[keyword].line;
    if (keyword > 0 && tokens_[keyword - 1].is("]]")) {
      size_t before = keyword - 1;
      while (before > 0 && !tokens_[before].is("[[")) --before;
      attributesOfKernel(k, before);
      erase(before, keyword);
    }
    erase(keyword, at);
    tokens_[keyword].text = "static";
    tokens_[keyword].kind = Kind::Name;
    size_t open = at;
    while (open + 1 < tokens_.size() && !tokens_[open].is("(")) {
      if (tokens_[open].is("[[")) {
        attributesOfKernel(k, open);
        const size_t end = closing(open);
        erase(open, end + 1);
        open = end;
      }
      ++open;
    }
    size_t name = open;
    while (name > at && tokens_[name].kind != Kind::Name) --name;
    k.name = tokens_[name].text;
    if (!std::any_of(tokens_.begin() + long(at), tokens_.begin() + long(name), [](const Token& t) { return t.is("void"); }))
      error(tokens_[name], "a kernel must return void");
    const size_t close = closing(open);
    std::string arguments;
    std::set<unsigned> taken;
    int components = 0;
    size_t from = open + 1;
    int depth = 0;
    std::vector<std::pair<size_t, size_t>> ranges;
    for (size_t i = open + 1; i <= close; ++i) {
      const Token& t = tokens_[i];
      if (t.is("(") || t.is("[[") || t.is("[") || t.is("<")) ++depth;
      if (i < close && (t.is(")") || t.is("]]") || t.is("]") || t.is(">"))) --depth;
      if (i == close || (t.is(",") && depth == 0)) {
        if (i > from) ranges.push_back({from, i});
        from = i + 1;
      }
    }
    for (const auto& [first, last] : ranges) parameter(k, first, last, taken, components, arguments);
    size_t end = close;
    if (tokens_[close + 1].is("[[")) {
      error(tokens_[close + 1], "attributes of a kernel are supported before it only");
    }
    if (tokens_[close + 1].is("{")) {
      end = closing(close + 1);
      threadgroupVariables(out_.kernels.size(), close + 1, end);
      entry(k, arguments);
      out_.kernels.push_back(std::move(k));
    }
    return close;
  }

  void attributesOfKernel(KernelText& k, size_t open) {
    if (tokens_[open + 1].is("max_total_threads_per_threadgroup") && tokens_[open + 3].kind == Kind::Number)
      k.maxTotalThreads = unsigned(std::stoul(tokens_[open + 3].text));
    else
      error(tokens_[open], "attribute '" + tokens_[open + 1].text + "' of a kernel is not supported by the virtual device");
  }

  void parameter(KernelText& k, size_t first, size_t last, std::set<unsigned>& taken, int& components, std::string& arguments) {
    std::string attribute;
    long index = -1;
    size_t end = last;
    for (size_t i = first; i < last; ++i)
      if (tokens_[i].is("[[")) {
        end = std::min(end, i);
        const size_t close = closing(i);
        attribute = tokens_[i + 1].text;
        if (tokens_[i + 2].is("(")) {
          if (tokens_[i + 3].kind == Kind::Number)
            index = std::stol(tokens_[i + 3].text);
          else
            error(tokens_[i + 3], "an index that is not a literal is not supported by the virtual device");
        }
        erase(i, close + 1);
        i = close;
      }
    if (end <= first || tokens_[end - 1].kind != Kind::Name) {
      error(tokens_[first], "this form of a kernel parameter is not supported by the virtual device");
      return;
    }
    const Token& name = tokens_[end - 1];
    const bool pointer = end >= first + 2 && tokens_[end - 2].is("*"), reference = end >= first + 2 && tokens_[end - 2].is("&");
    const auto has = [&](const char* word) {
      for (size_t i = first; i + 1 < end; ++i)
        if (tokens_[i].is(word)) return true;
      return false;
    };
    const std::string type = join(first, end - 1);
    Parameter p;
    p.name = name.text;
    if (!arguments.empty()) arguments += ", ";
    const bool restricted = end >= first + 2 && (tokens_[end - 2].is("__restrict") || tokens_[end - 2].is("restrict"));
    if (pointer || reference || restricted) {
      if (!has("device") && !has("constant")) {
        error(name, has("threadgroup") ? "threadgroup arguments of a kernel are not supported by the virtual device"
                                       : "kernel parameter '" + p.name + "' must point to device or constant memory");
        return;
      }
      if (!attribute.empty() && attribute != "buffer") {
        error(name, "attribute '" + attribute + "' cannot be of a buffer");
        return;
      }
      if (index < 0)
        for (index = 0; taken.count(unsigned(index));) ++index;
      if (index > 30) error(name, "'buffer' attribute parameter is out of bounds: must be between 0 and 30");
      if (!taken.insert(unsigned(index)).second)
        error(name, "cannot reserve 'buffer' resource location at index " + std::to_string(index));
      p.index = unsigned(index);
      p.constantSpace = has("constant");
      p.readOnly = p.constantSpace || has("const");
      const std::string slot = "g->buffers[" + std::to_string(index) + "]";
      arguments += reference ? "*(" + type.substr(0, type.size() - 1) + "*)" + slot : "(" + type + ")" + slot;
    } else {
      const auto known = kPositions.find(attribute);
      if (known == kPositions.end()) {
        error(name, attribute.empty() ? "invalid type '" + type + "' for input declaration in a kernel function"
                                      : "attribute '" + attribute + "' is not known to the virtual device");
        return;
      }
      const char last_ = type.empty() ? ' ' : type.back();
      const int n = last_ >= '2' && last_ <= '3' && isVectorName(type.substr(type.find_last_of(" :") + 1)) ? last_ - '0' : 1;
      if (n > known->second.components) error(name, "attribute '" + attribute + "' must be a scalar");
      if (known->second.components == 3) {
        if (components != 0 && components != n)
          error(name, "type of '" + p.name + "' differs in its number of components from the other positions of this kernel");
        components = n;
      }
      p.binding = Binding::Position;
      arguments += "metal::__position<" + type + ">(" + known->second.expression + ")";
    }
    k.parameters.push_back(std::move(p));
  }

  /** `alignas(16) threadgroup float tile[8][9], sum;` in a kernel's body: references into the threadgroup's memory. */
  void threadgroupVariables(size_t kernelIndex, size_t open, size_t close) {
    unsigned ordinal = 0;
    for (size_t i = open + 1; i < close; ++i) {
      const bool aligned = tokens_[i].is("alignas") && tokens_[i + 1].is("(");
      const size_t space = aligned ? closing(i + 1) + 1 : i;
      const Token& before = tokens_[i - 1];
      if (!tokens_[space].is("threadgroup") || !(before.is("{") || before.is("}") || before.is(";"))) continue;
      size_t end = space;
      bool variable = true;
      while (end < close && !tokens_[end].is(";")) {
        if (tokens_[end].is("=") || tokens_[end].is("*") || tokens_[end].is("&") || tokens_[end].is("("))
          variable = variable && insideBrackets(space, end);
        ++end;
      }
      if (!variable) continue;
      size_t name = space + 1;
      while (name < end && !(tokens_[name].kind == Kind::Name &&
                             (tokens_[name + 1].is("[") || tokens_[name + 1].is(",") || tokens_[name + 1].is(";"))))
        ++name;
      const std::string type = join(space + 1, name), alignment = aligned ? join(i + 2, space - 1) : "alignof(" + type + ")";
      std::string text;
      while (name < end) {
        size_t stop = name + 1;
        while (tokens_[stop].is("[")) stop = closing(stop) + 1;
        const std::string dims = join(name + 1, stop), n = std::to_string(ordinal);
        text += "static __constant const unsigned long __msl_variable_" + n +
                "[4] __attribute__((used, section(\"msl_threadgroup\"))) = {" + std::to_string(kernelIndex) + ", " + n +
                ", sizeof(" + type + dims + "), " + alignment + "}; ";
        text += dims.empty() ? "threadgroup " + type + " &" + tokens_[name].text + " = *(threadgroup " + type + "*)"
                             : "threadgroup " + type + " (&" + tokens_[name].text + ")" + dims + " = *(threadgroup " + type +
                                   " (*)" + dims + ")";
        text += "__msl_threadgroup(" + n + ")";
        ++ordinal;
        name = stop + 1;
        if (stop < end) text += "; ";
      }
      erase(i, end);
      tokens_[i].text = text;
      tokens_[i].kind = Kind::Directive;  // taken as it is
      i = end;
    }
  }
  bool insideBrackets(size_t from, size_t at) const {
    int depth = 0;
    for (size_t i = from; i < at; ++i) depth += tokens_[i].is("[") ? 1 : tokens_[i].is("]") ? -1 : 0;
    return depth > 0;
  }

  void entry(const KernelText& k, const std::string& arguments) {
    entries_ += "extern \"C\" __attribute__((visibility(\"default\"))) void __msl_entry_" + k.name +
                "(__global __msl_group* g) {\n  for (;;) {\n"
                "    const unsigned i = g->next;\n    if (i >= g->count) return;\n    g->next = i + 1;\n    g->current = i;\n"
                "    const unsigned x = i % g->size[0], y = i / g->size[0] % g->size[1], z = i / g->size[0] / g->size[1];\n"
                "    (void)x, (void)y, (void)z;\n    ::" +
                k.name + "(" + arguments + ");\n  }\n}\n";
  }
};

}  // namespace

Translation translate(const std::string& source) { return Frontend(source).run(); }

}  // namespace vmetal
