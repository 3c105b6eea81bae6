// The parsed form of a PTX module: declarations, functions and instructions with their operands, nothing executed yet.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace vcuda {

enum class Type : uint8_t {
  None, Pred,
  B8, B16, B32, B64, B128,
  U8, U16, U32, U64,
  S8, S16, S32, S64,
  F16, F16x2, BF16, BF16x2, TF32, F32, F64, F32x2,
  E4M3, E5M2, E4M3x2, E5M2x2, B1, U4, S4, TexRef,
};

/** `u32` to Type::U32; Type::None for what is no type. */
Type typeNamed(std::string_view name);
const char* nameOf(Type type);
int bitsOf(Type type);
inline int bytesOf(Type type) { return (bitsOf(type) + 7) / 8; }
bool isSigned(Type type);
bool isInteger(Type type);  // .uN and .sN
bool isFloat(Type type);

enum class Space : uint8_t { Generic, Global, Const, Shared, Local, Param };

/** A module that cannot be used, with the line it fails at: becomes CUDA_ERROR_INVALID_PTX and the JIT log. */
struct PtxError : std::runtime_error {
  int line;
  PtxError(int at, const std::string& message) : std::runtime_error(message), line(at) {}
};
/** A PTX ISA version that this device does not know, or a target that it is not. */
struct PtxTargetError : PtxError {
  bool version;
  PtxTargetError(int at, const std::string& message, bool isVersion) : PtxError(at, message), version(isVersion) {}
};

/** An address inside an initialiser: eight (or four) bytes at `at` become the address of `symbol` plus `addend`. */
struct Relocation {
  uint64_t at;
  int bytes;
  std::string symbol;
  int64_t addend;
  bool generic;
};

struct Variable {
  std::string name;
  Space space = Space::Generic;
  Type type = Type::B8;
  uint32_t align = 1;
  uint64_t bytes = 0;      // 0 for `.extern .shared name[]`, the dynamic shared memory
  bool external = false;
  std::vector<uint8_t> data;  // empty: zero
  std::vector<Relocation> relocations;
  int line = 0;
};

struct Operand {
  enum class Kind : uint8_t { Register, Integer, Single, Double, Symbol, Special, Variable, Address, Vector, Sink };
  Kind kind = Kind::Sink;
  int index = -1;              // Register: of the function's registers. Variable: of the function's variables
  bool negated = false;        // !p
  uint64_t bits = 0;           // Integer (two's complement), Single and Double (raw bits)
  int64_t offset = 0;          // Address, Symbol, Variable
  std::string name;            // Symbol, Special
  std::vector<Operand> items;  // Vector; Address: base first, then (for tensors) the coordinate vector
  std::vector<Operand> pair;   // p|q: the second part
};

struct Instruction {
  int guard = -1;  // register index of @p
  bool guardNegated = false;
  std::string opcode;
  std::vector<std::string> modifiers;
  std::vector<Operand> operands;
  // call: results and arguments (operands holds the callee)
  std::vector<Operand> results, arguments;
  int scope = 0;
  int line = 0;
  std::string_view text;
};

struct Label {
  std::string name;
  int scope;
  size_t at;  // index of the instruction that follows
};

struct Function {
  std::string name;
  bool entry = false;
  bool defined = false;
  int line = 0;
  struct Register {
    std::string name;
    Type type;
  };
  struct Parameter {
    bool isRegister;
    int index;  // of registers or of variables
  };
  std::vector<Register> registers;
  std::vector<Variable> variables;  // .param, .local and .shared declared inside, and formal parameters
  std::vector<Parameter> parameters, returns;
  std::vector<Instruction> body;
  std::vector<Label> labels;
  std::vector<int> scopeParents;
  std::map<std::pair<int, std::string>, std::vector<std::string>> branchTargets;  // of .branchtargets
  uint32_t maxThreads[3] = {0, 0, 0};       // .maxntid
  uint32_t requiredThreads[3] = {0, 0, 0};  // .reqntid
  uint32_t requiredCluster[3] = {0, 0, 0};  // .reqnctapercluster
  uint32_t maxRegisters = 0;
};

struct Module {
  std::shared_ptr<const std::string> source;  // texts of instructions point into it
  int version = 0;                            // 8.4 is 84
  std::string target;                         // sm_90a
  int addressBits = 32;
  std::vector<Variable> variables;
  std::vector<Function> functions;
};

/** Parses a whole module. Throws PtxError. */
Module parseModule(std::string_view text);

}  // namespace vcuda
