// PTX text to a Module: one pass over the characters, recursive descent, names resolved to registers and variables of
// the function as they are met (PTX declares before use; only labels are forward).
#include <cctype>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "ptx.h"

namespace vcuda {
namespace {

struct TypeRow {
  Type type;
  const char* name;
  int bits;
};
constexpr TypeRow kTypes[] = {
    {Type::None, "", 0},        {Type::Pred, "pred", 1},     {Type::B8, "b8", 8},         {Type::B16, "b16", 16},
    {Type::B32, "b32", 32},     {Type::B64, "b64", 64},      {Type::B128, "b128", 128},   {Type::U8, "u8", 8},
    {Type::U16, "u16", 16},     {Type::U32, "u32", 32},      {Type::U64, "u64", 64},      {Type::S8, "s8", 8},
    {Type::S16, "s16", 16},     {Type::S32, "s32", 32},      {Type::S64, "s64", 64},      {Type::F16, "f16", 16},
    {Type::F16x2, "f16x2", 32}, {Type::BF16, "bf16", 16},    {Type::BF16x2, "bf16x2", 32}, {Type::TF32, "tf32", 32},
    {Type::F32, "f32", 32},     {Type::F64, "f64", 64},      {Type::F32x2, "f32x2", 64},  {Type::E4M3, "e4m3", 8},
    {Type::E5M2, "e5m2", 8},    {Type::E4M3x2, "e4m3x2", 16}, {Type::E5M2x2, "e5m2x2", 16}, {Type::B1, "b1", 1},
    {Type::U4, "u4", 4},        {Type::S4, "s4", 4},         {Type::TexRef, "texref", 64},
};

const TypeRow& row(Type type) {
  for (const TypeRow& r : kTypes)
    if (r.type == type) return r;
  return kTypes[0];
}

using Kind = Operand::Kind;

class Parser {
 public:
  Parser(std::shared_ptr<const std::string> source) : text_(*source) { module_.source = std::move(source); }

  Module parse() {
    skip();
    while (at_ < text_.size()) directive();
    if (module_.version == 0) fail("the module has no .version");
    if (module_.target.empty()) fail("the module has no .target");
    return std::move(module_);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  Module module_;
  Function* function_ = nullptr;
  struct Name {
    Operand operand;
  };
  std::vector<std::unordered_map<std::string, Operand>> scopes_;
  std::vector<int> scopeIds_;

  [[noreturn]] void fail(const std::string& message) const { throw PtxError(line_, message); }

  // Characters

  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

  void skip() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        ++at_;
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v' || c == '\0') {
        ++at_;
      } else if (c == '/' && peek(1) == '/') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else if (c == '/' && peek(1) == '*') {
        at_ += 2;
        while (at_ < text_.size() && !(text_[at_] == '*' && peek(1) == '/')) {
          if (text_[at_] == '\n') ++line_;
          ++at_;
        }
        if (at_ >= text_.size()) fail("a comment is not closed");
        at_ += 2;
      } else {
        return;
      }
    }
  }

  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    skip();
    return true;
  }

  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "', found " + found());
  }

  std::string found() const {
    if (at_ >= text_.size()) return "the end of the module";
    size_t end = at_;
    while (end < text_.size() && end < at_ + 24 && text_[end] != '\n') ++end;
    return "'" + std::string(text_.substr(at_, end - at_)) + "'";
  }

  static bool isStart(char c) { return std::isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%'; }
  static bool isPart(char c) { return std::isalnum((unsigned char)c) || c == '_' || c == '$'; }

  std::string identifier() {
    if (!isStart(peek())) fail("expected a name, found " + found());
    const size_t from = at_++;
    while (isPart(peek())) ++at_;
    std::string name(text_.substr(from, at_ - from));
    skip();
    return name;
  }

  /** The word after a dot that stands here: `.global`, `.shared::cta`, `.L2::128B`. */
  std::string dotWord() {
    if (peek() != '.') fail("expected a directive, found " + found());
    ++at_;
    const size_t from = at_;
    while (isPart(peek()) || (peek() == ':' && peek(1) == ':')) at_ += peek() == ':' ? 2 : 1;
    std::string word(text_.substr(from, at_ - from));
    skip();
    return word;
  }

  std::string peekDotWord() {
    const size_t at = at_;
    const int line = line_;
    std::string word = dotWord();
    at_ = at;
    line_ = line;
    return word;
  }

  std::string quoted() {
    if (peek() != '"') fail("expected a string, found " + found());
    const size_t from = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') ++at_;
    std::string s(text_.substr(from, at_ - from));
    ++at_;
    skip();
    return s;
  }

  // Constants

  struct Constant {
    Kind kind = Kind::Integer;
    uint64_t bits = 0;
  };

  bool constantStarts() const {
    const char c = peek();
    return std::isdigit((unsigned char)c) || c == '-' || c == '+' || c == '~' || c == '(' ||
           (c == '!' && !isStart(peek(1))) || (c == '.' && std::isdigit((unsigned char)peek(1)));
  }

  Constant number() {
    const size_t from = at_;
    if (peek() == '0' && (peek(1) == 'f' || peek(1) == 'F' || peek(1) == 'd' || peek(1) == 'D')) {
      const bool single = peek(1) == 'f' || peek(1) == 'F';
      const int digits = single ? 8 : 16;
      at_ += 2;
      uint64_t bits = 0;
      for (int i = 0; i < digits; ++i, ++at_) {
        if (!std::isxdigit((unsigned char)peek())) fail("a floating constant needs " + std::to_string(digits) + " hex digits");
        bits = bits * 16 + uint64_t(std::stoi(std::string(1, peek()), nullptr, 16));
      }
      skip();
      return {single ? Kind::Single : Kind::Double, bits};
    }
    int base = 10;
    if (peek() == '0' && (peek(1) == 'x' || peek(1) == 'X')) base = 16, at_ += 2;
    else if (peek() == '0' && (peek(1) == 'b' || peek(1) == 'B')) base = 2, at_ += 2;
    else if (peek() == '0' && std::isdigit((unsigned char)peek(1))) base = 8;
    if (base == 10) {
      size_t end = at_;
      while (std::isdigit((unsigned char)text_[end])) ++end;
      const bool isReal = end < text_.size() && (text_[end] == '.' || text_[end] == 'e' || text_[end] == 'E');
      if (isReal) {
        const std::string piece(text_.substr(from, std::min<size_t>(64, text_.size() - from)));
        char* stop = nullptr;
        const double value = std::strtod(piece.c_str(), &stop);
        at_ = from + size_t(stop - piece.c_str());
        skip();
        uint64_t bits;
        std::memcpy(&bits, &value, 8);
        return {Kind::Double, bits};
      }
    }
    uint64_t value = 0;
    bool any = false;
    for (;; ++at_) {
      const char c = peek();
      int digit;
      if (std::isdigit((unsigned char)c)) digit = c - '0';
      else if (base == 16 && std::isxdigit((unsigned char)c)) digit = std::tolower(c) - 'a' + 10;
      else break;
      if (digit >= base) fail("a digit is out of range in an integer constant");
      value = value * uint64_t(base) + uint64_t(digit);
      any = true;
    }
    if (!any) fail("expected a number, found " + found());
    if (peek() == 'U') ++at_;
    skip();
    return {Kind::Integer, value};
  }

  Constant unary() {
    if (accept('-')) {
      Constant c = unary();
      if (c.kind == Kind::Integer) c.bits = uint64_t(0) - c.bits;
      else c.bits ^= c.kind == Kind::Single ? uint64_t(0x80000000u) : uint64_t(1) << 63;
      return c;
    }
    if (accept('+')) return unary();
    if (accept('~')) {
      Constant c = unary();
      c.bits = ~c.bits;
      return c;
    }
    if (accept('!')) {
      Constant c = unary();
      c.bits = !c.bits;
      return c;
    }
    if (accept('(')) {
      if (peek() == '.') {  // a cast, (.s64) or (.u64): constants are 64 bits wide already
        dotWord();
        expect(')');
        return unary();
      }
      Constant c = expression(0);
      expect(')');
      return c;
    }
    if (peek() == 'W' && text_.substr(at_, 7) == "WARP_SZ") {
      identifier();
      return {Kind::Integer, 32};
    }
    return number();
  }

  Constant expression(int level) {
    static constexpr const char* kLevels[][4] = {{"|"}, {"^"}, {"&"}, {"<<", ">>"}, {"+", "-"}, {"*", "/", "%"}};
    if (level == 6) return unary();
    Constant left = expression(level + 1);
    for (;;) {
      const char* op = nullptr;
      for (const char* candidate : kLevels[level])
        if (candidate && text_.substr(at_, std::strlen(candidate)) == candidate) op = candidate;
      if (!op) return left;
      at_ += std::strlen(op);
      skip();
      const Constant right = expression(level + 1);
      if (left.kind != Kind::Integer || right.kind != Kind::Integer) fail("constant expressions are of integers");
      const int64_t a = int64_t(left.bits), b = int64_t(right.bits);
      switch (op[0]) {
        case '|': left.bits |= right.bits; break;
        case '^': left.bits ^= right.bits; break;
        case '&': left.bits &= right.bits; break;
        case '<': left.bits <<= (b & 63); break;
        case '>': left.bits = uint64_t(a >> (b & 63)); break;
        case '+': left.bits += right.bits; break;
        case '-': left.bits -= right.bits; break;
        case '*': left.bits *= right.bits; break;
        default:
          if (b == 0) fail("a constant is divided by zero");
          left.bits = uint64_t(op[0] == '/' ? a / b : a % b);
      }
    }
  }

  int64_t integer() {
    const Constant c = expression(0);
    if (c.kind != Kind::Integer) fail("expected an integer constant");
    return int64_t(c.bits);
  }

  // Module level

  void directive() {
    if (peek() == '@') {  // @@DWARF
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      skip();
      return;
    }
    const int line = line_;
    const std::string word = dotWord();
    if (word == "version") {
      const size_t from = at_;
      while (std::isdigit((unsigned char)peek()) || peek() == '.') ++at_;
      const std::string version(text_.substr(from, at_ - from));
      skip();
      const size_t dot = version.find('.');
      if (dot == std::string::npos) fail(".version needs major.minor");
      module_.version = std::stoi(version) * 10 + std::stoi(version.substr(dot + 1));
      return;
    }
    if (word == "target") {
      do {
        const std::string name = identifier();
        if (name.rfind("sm_", 0) == 0) module_.target = name;
        else if (name != "debug" && name != "texmode_unified" && name != "texmode_independent")
          throw PtxTargetError(line, "unknown .target " + name, false);
      } while (accept(','));
      return;
    }
    if (word == "address_size") {
      module_.addressBits = int(integer());
      return;
    }
    if (word == "file") {
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      skip();
      return;
    }
    if (word == "section") {
      while (at_ < text_.size() && text_[at_] != '{') {
        if (text_[at_] == '\n') ++line_;
        ++at_;
      }
      while (at_ < text_.size() && text_[at_] != '}') {
        if (text_[at_] == '\n') ++line_;
        ++at_;
      }
      expect('}');
      return;
    }
    if (word == "pragma") {
      quoted();
      expect(';');
      return;
    }
    linkage(word, line);
  }

  void linkage(std::string word, int line) {
    bool external = false;
    while (word == "visible" || word == "extern" || word == "weak" || word == "common") {
      external |= word == "extern";
      word = dotWord();
    }
    if (word == "entry" || word == "func") return function(word == "entry", external, line);
    const Space space = spaceNamed(word);
    if (space == Space::Generic) fail("the directive ." + word + " is not known to this device");
    for (Variable& v : declarators(space, external)) module_.variables.push_back(std::move(v));
    expect(';');
  }

  Space spaceNamed(const std::string& word) const {
    if (word == "global") return Space::Global;
    if (word == "const") return Space::Const;
    if (word == "shared" || word == "shared::cta") return Space::Shared;
    if (word == "local") return Space::Local;
    if (word == "param") return Space::Param;
    return Space::Generic;
  }

  /** `.align 16 .v4 .f32 name[8] = {…}, other`: everything after the state space. */
  std::vector<Variable> declarators(Space space, bool external) {
    Variable base;
    base.space = space;
    base.external = external;
    int lanes = 1;
    uint32_t align = 0;
    bool typed = false;
    while (peek() == '.') {
      const std::string word = dotWord();
      if (word == "align") {
        align = uint32_t(integer());
      } else if (word == "v2" || word == "v4") {
        lanes = word[1] - '0';
      } else if (word == "ptr") {
        // .param .u64 .ptr .global .align 16 name: what it points to does not change what it is
        while (peek() == '.') {
          if (dotWord() == "align") integer();
        }
      } else if (word.rfind("attribute", 0) == 0 || word == "unified" || word == "managed") {
        if (accept('(')) {
          while (peek() != ')' && at_ < text_.size()) ++at_;
          expect(')');
        }
      } else {
        base.type = typeNamed(word);
        if (base.type == Type::None || base.type == Type::Pred) fail("a variable of the type ." + word + " is not known to this device");
        typed = true;
      }
    }
    if (!typed) fail("a variable needs a type");
    std::vector<Variable> result;
    do {
      Variable v = base;
      v.line = line_;
      v.name = identifier();
      const uint64_t element = uint64_t(bytesOf(v.type)) * uint64_t(lanes);
      v.align = align ? align : uint32_t(element);
      if (v.align & (v.align - 1)) fail(".align of " + v.name + " is not a power of two");
      uint64_t count = 1;
      bool open = false;
      while (accept('[')) {
        if (peek() == ']') open = true;
        else count *= uint64_t(integer());
        expect(']');
      }
      v.bytes = open ? 0 : element * count;
      if (accept('=')) {
        if (space != Space::Global && space != Space::Const) fail("only .global and .const variables have initialisers");
        initialiser(v);
        if (open) v.bytes = v.data.size();
        if (v.data.size() > v.bytes) fail("the initialiser of " + v.name + " has more elements than it");
        v.data.resize(v.bytes);
      } else if (open && !external && space != Space::Param) {
        fail(v.name + " has no size");
      }
      result.push_back(std::move(v));
    } while (accept(','));
    return result;
  }

  void initialiser(Variable& v) {
    if (accept('{')) {
      if (!accept('}')) {
        do initialiser(v);
        while (accept(','));
        expect('}');
      }
      return;
    }
    const int bytes = bytesOf(v.type);
    if (isStart(peek())) {
      Relocation r{v.data.size(), bytes, identifier(), 0, false};
      if (r.symbol == "generic" && accept('(')) {
        r.generic = true;
        r.symbol = identifier();
        expect(')');
      }
      if (peek() == '+' || peek() == '-') r.addend = integer();
      v.relocations.push_back(r);
      v.data.resize(v.data.size() + size_t(bytes));
      return;
    }
    const Constant c = expression(0);
    const uint64_t bits = constantAs(c, v.type);
    for (int i = 0; i < bytes; ++i) v.data.push_back(uint8_t(bits >> (8 * i)));
  }

  uint64_t constantAs(const Constant& c, Type type) const {
    if (c.kind == Kind::Integer) {
      if (type == Type::F32) {
        const float f = float(int64_t(c.bits));
        uint32_t b;
        std::memcpy(&b, &f, 4);
        return b;
      }
      if (type == Type::F64) {
        const double d = double(int64_t(c.bits));
        uint64_t b;
        std::memcpy(&b, &d, 8);
        return b;
      }
      return c.bits;
    }
    if (c.kind == Kind::Single) {
      if (bitsOf(type) != 32) fail("a 0f constant initialises something that is not 32 bits wide");
      return c.bits;
    }
    if (type == Type::F32) {
      double d;
      std::memcpy(&d, &c.bits, 8);
      const float f = float(d);
      uint32_t b;
      std::memcpy(&b, &f, 4);
      return b;
    }
    return c.bits;
  }

  // Functions

  void function(bool entry, bool external, int line) {
    Function f;
    f.entry = entry;
    f.line = line;
    function_ = &f;
    scopes_.assign(1, {});
    scopeIds_.assign(1, 0);
    f.scopeParents = {-1};
    if (!entry) {
      while (peek() == '.' ) {
        const std::string word = dotWord();
        if (word != "noreturn" && word.rfind("attribute", 0) != 0) fail("." + word + " of a function is not known to this device");
      }
      if (accept('(')) f.returns = parameters();
    }
    f.name = identifier();
    if (accept('(')) f.parameters = parameters();
    while (peek() == '.') performance(f);
    if (accept(';')) {
      function_ = nullptr;
      if (!external && entry) fail("the entry " + f.name + " has no body");
      module_.functions.push_back(std::move(f));
      return;
    }
    expect('{');
    f.defined = true;
    statements();
    f.scopeParents.shrink_to_fit();
    function_ = nullptr;
    for (Function& other : module_.functions)
      if (other.name == f.name) {
        if (other.defined) fail("the function " + f.name + " is defined twice");
        other = std::move(f);
        return;
      }
    module_.functions.push_back(std::move(f));
  }

  std::vector<Function::Parameter> parameters() {
    std::vector<Function::Parameter> result;
    if (accept(')')) return result;
    do {
      const std::string word = dotWord();
      if (word == "reg") {
        std::string typeWord = dotWord();
        const Type type = typeNamed(typeWord);
        if (type == Type::None) fail("unknown type ." + typeWord);
        const std::string name = identifier();
        result.push_back({true, addRegister(name, type)});
      } else if (word == "param") {
        for (Variable& v : oneDeclarator(Space::Param)) result.push_back({false, addVariable(std::move(v))});
      } else {
        fail("a parameter is .param or .reg, found ." + word);
      }
    } while (accept(','));
    expect(')');
    return result;
  }

  /** Parameters are separated by the commas that would continue a declaration: take exactly one. */
  std::vector<Variable> oneDeclarator(Space space) {
    // declarators() stops at a comma only when another name follows; parameters repeat the directive.
    Variable v;
    uint32_t align = 0;
    v.space = space;
    bool typed = false;
    while (peek() == '.') {
      const std::string word = dotWord();
      if (word == "align") align = uint32_t(integer());
      else if (word == "ptr") {
        while (peek() == '.')
          if (dotWord() == "align") integer();
      } else if (word == "v2" || word == "v4") {
        fail("vector parameters are not known to this device");
      } else {
        v.type = typeNamed(word);
        if (v.type == Type::None) fail("a parameter of the type ." + word + " is not known to this device");
        typed = true;
      }
    }
    if (!typed) fail("a parameter needs a type");
    v.line = line_;
    v.name = identifier();
    uint64_t count = 1;
    while (accept('[')) {
      count = peek() == ']' ? 0 : count * uint64_t(integer());
      expect(']');
    }
    v.bytes = count * uint64_t(bytesOf(v.type));
    v.align = align ? align : uint32_t(bytesOf(v.type));
    return {v};
  }

  void performance(Function& f) {
    const std::string word = dotWord();
    uint32_t* three = word == "maxntid"          ? f.maxThreads
                      : word == "reqntid"        ? f.requiredThreads
                      : word == "reqnctapercluster" ? f.requiredCluster
                                                 : nullptr;
    if (three) {
      three[0] = three[1] = three[2] = 1;
      int i = 0;
      do three[i++] = uint32_t(integer());
      while (i < 3 && accept(','));
    } else if (word == "maxnreg") {
      f.maxRegisters = uint32_t(integer());
    } else if (word == "minnctapersm" || word == "maxnctapersm" || word == "maxclusterrank") {
      integer();
    } else if (word == "pragma") {
      quoted();
      expect(';');
    } else if (word == "explicitcluster" || word == "blocksareclusters" || word == "noreturn") {
    } else {
      fail("the directive ." + word + " of a function is not known to this device");
    }
  }

  int addRegister(const std::string& name, Type type) {
    Operand o;
    o.kind = Kind::Register;
    o.index = int(function_->registers.size());
    function_->registers.push_back({name, type});
    declare(name, o);
    return o.index;
  }

  int addVariable(Variable v) {
    Operand o;
    o.kind = Kind::Variable;
    o.index = int(function_->variables.size());
    declare(v.name, o);
    function_->variables.push_back(std::move(v));
    return o.index;
  }

  void declare(const std::string& name, const Operand& o) {
    if (!scopes_.back().emplace(name, o).second) fail(name + " is declared twice");
  }

  const Operand* lookup(const std::string& name) const {
    for (size_t i = scopes_.size(); i-- > 0;) {
      const auto it = scopes_[i].find(name);
      if (it != scopes_[i].end()) return &it->second;
    }
    return nullptr;
  }

  void statements() {
    for (;;) {
      if (at_ >= text_.size()) fail("the function " + function_->name + " is not closed");
      if (accept('}')) return;
      if (accept('{')) {
        scopes_.emplace_back();
        const int id = int(function_->scopeParents.size());
        function_->scopeParents.push_back(scopeIds_.back());
        scopeIds_.push_back(id);
        statements();
        scopes_.pop_back();
        scopeIds_.pop_back();
        continue;
      }
      if (accept(';')) continue;
      if (peek() == '.') {
        localDirective();
        continue;
      }
      if (isStart(peek())) {
        // A label is a name and a colon (but not `::`, which cannot follow an opcode's first word).
        const size_t at = at_;
        const int line = line_;
        const std::string name = identifier();
        if (peek() == ':') {
          accept(':');
          if (peek() == '.' ) {
            const std::string word = peekDotWord();
            if (word == "branchtargets") {
              dotWord();
              std::vector<std::string> targets;
              do targets.push_back(identifier());
              while (accept(','));
              expect(';');
              function_->branchTargets[{scopeIds_.back(), name}] = targets;
              continue;
            }
            if (word == "callprototype" || word == "calltargets") fail("indirect calls are not known to this device");
          }
          for (const Label& l : function_->labels)
            if (l.name == name && l.scope == scopeIds_.back()) fail("the label " + name + " is defined twice");
          function_->labels.push_back({name, scopeIds_.back(), function_->body.size()});
          continue;
        }
        at_ = at;
        line_ = line;
      }
      instruction();
    }
  }

  void localDirective() {
    const std::string word = dotWord();
    if (word == "reg") {
      registers();
    } else if (word == "loc") {
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      skip();
    } else if (word == "pragma") {
      quoted();
      expect(';');
    } else {
      bool external = false;
      std::string space = word;
      if (space == "extern") external = true, space = dotWord();
      const Space s = spaceNamed(space);
      if (s == Space::Generic) fail("the directive ." + word + " is not known to this device");
      for (Variable& v : declarators(s, external)) addVariable(std::move(v));
      expect(';');
    }
  }

  void registers() {
    int lanes = 1;
    Type type = Type::None;
    while (peek() == '.') {
      const std::string word = dotWord();
      if (word == "v2" || word == "v4") lanes = word[1] - '0';
      else if ((type = typeNamed(word)) == Type::None) fail("a register of the type ." + word + " is not known to this device");
    }
    if (type == Type::None) fail(".reg needs a type");
    do {
      const std::string name = identifier();
      if (accept('<')) {
        const int64_t count = integer();
        expect('>');
        for (int64_t i = 0; i < count; ++i) addRegister(name + std::to_string(i), type);
      } else if (lanes > 1) {
        Operand vector;
        vector.kind = Kind::Vector;
        for (int i = 0; i < lanes; ++i) {
          addRegister(name + "." + "xyzw"[i], type);
          vector.items.push_back(*lookup(name + "." + "xyzw"[i]));
        }
        declare(name, vector);
      } else {
        addRegister(name, type);
      }
    } while (accept(','));
    expect(';');
  }

  void instruction() {
    Instruction in;
    in.line = line_;
    in.scope = scopeIds_.back();
    const size_t from = at_;
    if (accept('@')) {
      in.guardNegated = accept('!');
      const std::string name = identifier();
      const Operand* o = lookup(name);
      if (!o || o->kind != Kind::Register || function_->registers[size_t(o->index)].type != Type::Pred)
        fail("the guard " + name + " is not a predicate register");
      in.guard = o->index;
    }
    if (!isStart(peek())) fail("expected an instruction, found " + found());
    {
      const size_t start = at_++;
      while (isPart(peek())) ++at_;
      in.opcode = std::string(text_.substr(start, at_ - start));
    }
    while (peek() == '.') {
      ++at_;
      const size_t start = at_;
      while (isPart(peek()) || (peek() == ':' && peek(1) == ':')) at_ += peek() == ':' ? 2 : 1;
      in.modifiers.emplace_back(text_.substr(start, at_ - start));
    }
    skip();
    if (in.opcode == "call") {
      call(in);
    } else if (peek() != ';') {
      do in.operands.push_back(operand());
      while (accept(','));
    }
    if (peek() != ';') fail("expected ';' after " + in.opcode + ", found " + found());
    in.text = text_.substr(from, at_ - from + 1);
    accept(';');
    function_->body.push_back(std::move(in));
  }

  void call(Instruction& in) {
    if (accept('(')) {
      do in.results.push_back(operand());
      while (accept(','));
      expect(')');
      expect(',');
    }
    in.operands.push_back(operand());
    if (accept(',')) {
      if (accept('(')) {
        if (!accept(')')) {
          do in.arguments.push_back(operand());
          while (accept(','));
          expect(')');
        }
        if (accept(',')) in.operands.push_back(operand());
      } else {
        in.operands.push_back(operand());
      }
    }
  }

  Operand operand() {
    Operand o = primary();
    if (peek() == '|') {
      accept('|');
      o.pair.push_back(primary());
    }
    return o;
  }

  Operand constantOperand() {
    const Constant c = expression(0);
    Operand o;
    o.kind = c.kind;
    o.bits = c.bits;
    return o;
  }

  Operand primary() {
    if (peek() == '!' && isStart(peek(1))) {
      accept('!');
      Operand o = primary();
      o.negated = true;
      return o;
    }
    if (accept('{')) {
      Operand o;
      o.kind = Kind::Vector;
      do o.items.push_back(operand());
      while (accept(','));
      expect('}');
      return o;
    }
    if (accept('[')) {
      Operand o;
      o.kind = Kind::Address;
      o.items.push_back(primary());
      if (accept(',')) {
        do o.items.push_back(primary());
        while (accept(','));
      }
      expect(']');
      o.offset = o.items[0].offset;
      if (o.items[0].kind == Kind::Integer) {
        o.offset = int64_t(o.items[0].bits);
        o.items[0].bits = 0;
      }
      o.items[0].offset = 0;
      return o;
    }
    if (constantStarts()) return constantOperand();
    if (!isStart(peek())) fail("expected an operand, found " + found());
    if (peek() == '_' && !isPart(peek(1))) {
      ++at_;
      skip();
      return {};
    }
    // A name with a component: %tid.x, or a vector register's .x
    const size_t from = at_++;
    while (isPart(peek())) ++at_;
    std::string name(text_.substr(from, at_ - from));
    if (peek() == '.' && std::isalpha((unsigned char)peek(1))) {
      ++at_;
      const size_t start = at_;
      while (isPart(peek())) ++at_;
      name += "." + std::string(text_.substr(start, at_ - start));
      const size_t dot = name.size() - 1;
      constexpr std::string_view kColours = "rgba", kAxes = "xyzw";
      if (!lookup(name) && kColours.find(name[dot]) != std::string_view::npos) name[dot] = kAxes[kColours.find(name[dot])];
    }
    skip();
    if (name == "WARP_SZ") {
      Operand o;
      o.kind = Kind::Integer;
      o.bits = 32;
      return o;
    }
    Operand o;
    if (const Operand* known = lookup(name)) {
      o = *known;
    } else if (name[0] == '%') {
      o.kind = Kind::Special;
    } else {
      o.kind = Kind::Symbol;
    }
    o.name = name;
    if (accept('+')) o.offset = integer();  // a negative offset is +-4: ptxas takes no other form
    return o;
  }
};

}  // namespace

Type typeNamed(std::string_view name) {
  for (const TypeRow& r : kTypes)
    if (r.type != Type::None && name == r.name) return r.type;
  return Type::None;
}
const char* nameOf(Type type) { return row(type).name; }
int bitsOf(Type type) { return row(type).bits; }
bool isSigned(Type type) { return type >= Type::S8 && type <= Type::S64; }
bool isInteger(Type type) { return type >= Type::U8 && type <= Type::S64; }
bool isFloat(Type type) { return type >= Type::F16 && type <= Type::E5M2x2; }

Module parseModule(std::string_view text) {
  // A module may come with its terminating zero.
  while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
  return Parser(std::make_shared<const std::string>(text)).parse();
}

}  // namespace vcuda
