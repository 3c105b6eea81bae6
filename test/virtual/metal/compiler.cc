// Runs clang and ld. The header of stdlib/ is precompiled once per compiler, options and processor.
#include "compiler.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace vmetal {
namespace {

using Arguments = std::vector<std::string>;

std::string readFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}
bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

struct Outcome {
  int status;
  std::string output;
};
/** Runs a program; its stdout and stderr together. */
Outcome runProgram(const Arguments& arguments) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {-1, std::strerror(errno)};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Outcome o{-1, ""};
  if (failed) {
    o.output = std::string(argv[0]) + ": " + std::strerror(failed);
  } else {
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR);)
      if (n > 0) o.output.append(buffer, size_t(n));
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    o.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  close(ends[0]);
  return o;
}

/** The compiler: TUTTI_CLANG, or the first clang of version 15 or newer that is there. */
struct Clang {
  std::string path, version;
};
const Clang& clang() {
  static const Clang found = [] {
    std::string reasons;
    const char* own = std::getenv("TUTTI_CLANG");
    const Arguments names = own ? Arguments{own} : Arguments{"clang-16", "clang-17", "clang-18", "clang-19", "clang-15", "clang"};
    for (const std::string& name : names) {
      const Outcome o = runProgram({name, "--version"});
      const size_t at = o.output.find("clang version ");
      if (o.status == 0 && at != std::string::npos && std::atoi(o.output.c_str() + at + 14) >= 15) return Clang{name, o.output};
      if (o.status == 0)
        reasons += name + " is not clang 15 or newer; ";
      else if (own)
        reasons += o.output;
    }
    return Clang{"", reasons + (own ? "" : "no clang of version 15 or newer was found: install clang-16 or set TUTTI_CLANG")};
  }();
  return found;
}

// Metal's arithmetic: contraction by default unless a pragma says otherwise, integers wrap, float to integer saturates,
// literals are float. Aliases of any type are possible through casts between pointers. Loop strength reduction would take
// a third of the time of a large kernel, for little here.
Arguments flags(bool fast) {
  Arguments a = {"-x",
                 "clcpp",
                 "-cl-std=clc++2021",
                 "-cl-no-stdinc",
                 "-cl-single-precision-constant",
                 "-O1",
                 "-fPIC",
                 "-march=native",
                 "-fvisibility=hidden",
                 "-fwrapv",
                 "-fno-strict-float-cast-overflow",
                 "-fno-strict-aliasing",
                 "-fno-math-errno",
                 "-mllvm",
                 "-disable-lsr",
                 "-fno-asynchronous-unwind-tables",
                 "-Xclang",
                 "-cl-ext=+all",
                 "-fno-caret-diagnostics",
                 "-Xclang",
                 fast ? "-ffp-contract=fast-honor-pragmas" : "-ffp-contract=on"};
#if defined(__aarch64__)
  std::replace(a.begin(), a.end(), std::string("-march=native"), std::string("-mcpu=native"));
#endif
  if (fast)
    for (const char* f :
         {"-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-ffinite-math-only", "-fno-trapping-math"})
      a.push_back(f);
  for (const char* w : {"-Wno-unknown-attributes", "-Wno-unused-value"}) a.push_back(w);
  return a;
}

std::string stdlibFolder() {
  if (const char* own = std::getenv("TUTTI_VIRTUAL_METAL_STDLIB")) return own;
  return TUTTI_VIRTUAL_METAL_STDLIB;
}

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  std::string line, all;
  for (int seen = 0; seen < 2 && std::getline(in, line);)
    if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0 || line.rfind("model name", 0) == 0) {
      all += line;
      ++seen;
    }
  return all;
}

/** Writes a file whole or not at all. */
void publish(const std::string& temporary, const std::string& path) {
  if (std::rename(temporary.c_str(), path.c_str()) != 0)
    throw std::runtime_error("cannot write " + path + ": " + std::strerror(errno));
}
std::string temporaryName(const std::string& path) {
  static std::atomic<unsigned> count{0};
  return path + "." + std::to_string(getpid()) + "." + std::to_string(count++);
}

struct Header {
  std::string path, key;
};
/** The precompiled header for these options; made if it is not there. */
const Header& header(bool fast) {
  static std::mutex mutex;
  static std::map<bool, Header> made;
  std::lock_guard lock(mutex);
  Header& h = made[fast];
  if (!h.path.empty() && exists(h.path)) return h;
  if (clang().path.empty()) throw std::runtime_error(clang().version);
  std::string content = clang().path + clang().version + processor();
  for (const std::string& f : flags(fast)) content += " " + f;
  for (const char* name : {"scalar.h", "vector.h", "math.h", "integer.h", "atomic.h", "simd.h", "matrix.h", "metal_stdlib.h"}) {
    const std::string text = readFile(stdlibFolder() + "/" + name);
    if (text.empty()) throw std::runtime_error("cannot read " + stdlibFolder() + "/" + name);
    content += text;
  }
  h.key = hashOf(content);
  const std::string path = cacheFolder() + "/stdlib-" + h.key + ".pch";
  if (!exists(path)) {
    const std::string temporary = temporaryName(path);
    Arguments a = flags(fast);
    a.insert(a.begin(), clang().path);
    for (const std::string& more : {std::string("-fpch-instantiate-templates"), std::string("-Xclang"), std::string("-emit-pch"),
                                    std::string("-c"), stdlibFolder() + "/metal_stdlib.h", std::string("-o"), temporary})
      a.push_back(more);
    const Outcome o = runProgram(a);
    if (o.status != 0) throw std::runtime_error("the virtual device's metal_stdlib does not compile:\n" + o.output);
    publish(temporary, path);
  }
  h.path = path;
  return h;
}

/**
 * Compiles and links code to `path`. Throws the compiler's text. The name of the precompiled header says what is in it:
 * a check of its files' dates would only refuse a checkout that is newer and the same.
 */
void build(const std::string& code, const CompileOptions& options, const Arguments& more, const std::string& path) {
  const std::string base = temporaryName(path), text = base + ".cl", object = base + ".o", linked = base + ".so";
  std::ofstream(text, std::ios::binary) << code;
  Arguments a = flags(options.fastMath);
  a.insert(a.begin(), clang().path);
  a.insert(a.end(), more.begin(), more.end());
  for (const std::string& last : {std::string("-Xclang"), std::string("-fno-validate-pch"), std::string("-include-pch"),
                                  header(options.fastMath).path, std::string("-c"), text, std::string("-o"), object})
    a.push_back(last);
  Outcome o = runProgram(a);
  if (o.status == 0) o = runProgram({"ld", "-shared", "--build-id=none", "-z", "norelro", object, "-o", linked});
  unlink(text.c_str());
  unlink(object.c_str());
  if (o.status != 0) {
    unlink(linked.c_str());
    throw std::runtime_error(o.output);
  }
  publish(linked, path);
}

/** Where the threadgroup variables are listed, for the loader. */
constexpr const char* kTable =
    "extern __constant const unsigned long __start_msl_threadgroup[] __attribute__((weak, visibility(\"hidden\")));\n"
    "extern __constant const unsigned long __stop_msl_threadgroup[] __attribute__((weak, visibility(\"hidden\")));\n"
    "extern \"C\" __attribute__((visibility(\"default\"))) unsigned long __msl_sizes(int end) {\n"
    "  return end ? (unsigned long)__stop_msl_threadgroup : (unsigned long)__start_msl_threadgroup;\n}\n";

/** Kernels of a shared object see the functions of this library. */
void exportRuntime() {
  static std::once_flag once;
  std::call_once(once, [] {
    Dl_info own;
    if (dladdr(reinterpret_cast<void*>(&exportRuntime), &own)) dlopen(own.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
  });
}

/** Old objects of the cache go when there are many. */
void prune() {
  static std::once_flag once;
  std::call_once(once, [] { runProgram({"find", cacheFolder(), "-maxdepth", "1", "-type", "f", "-mtime", "+14", "-delete"}); });
}

}  // namespace

std::string hashOf(const std::string& text) {
  // FNV-1a, twice with different starts: a name, not a signature.
  uint64_t a = 0xcbf29ce484222325u, b = 0x84222325cbf29ce4u;
  for (const char c : text) {
    a = (a ^ uint8_t(c)) * 0x100000001b3u;
    b = (b ^ uint8_t(c)) * 0x100000001b3u + (b >> 47);
  }
  char name[40];
  std::snprintf(name, sizeof name, "%016llx%016llx", static_cast<unsigned long long>(a), static_cast<unsigned long long>(b));
  return name;
}

std::string cacheFolder() {
  static const std::string folder = [] {
    std::string path;
    Dl_info own;
    if (const char* set = std::getenv("TUTTI_VIRTUAL_METAL_CACHE"))
      path = set;
    else if (dladdr(reinterpret_cast<void*>(&exportRuntime), &own))
      path = std::string(own.dli_fname).substr(0, std::string(own.dli_fname).rfind('/') + 1) + "metal-cache";
    mkdir(path.c_str(), 0777);
    if (access(path.c_str(), W_OK) != 0) {
      const char* temporary = std::getenv("TMPDIR");
      path = std::string(temporary ? temporary : "/tmp") + "/tutti-virtual-metal-" + std::to_string(getuid());
      mkdir(path.c_str(), 0700);
    }
    return path;
  }();
  return folder;
}

Compiled compile(const std::string& source, const CompileOptions& options) {
  const Translation t = translate(source);
  if (!t.errors.empty()) throw std::runtime_error(t.errors);
  const Header& h = header(options.fastMath);
  prune();
  Compiled c;
  c.source = source;
  c.code = t.code + kTable;
  c.options = options;
  c.key = hashOf(h.key + c.code);
  c.object = cacheFolder() + "/" + c.key + ".so";
  if (!exists(c.object)) build(c.code, options, {}, c.object);
  exportRuntime();
  void* loaded = dlopen(c.object.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!loaded) throw std::runtime_error(dlerror());
  c.loaded = std::shared_ptr<void>(loaded, [](void* handle) { dlclose(handle); });
  for (const KernelText& k : t.kernels) {
    CompiledKernel kernel;
    kernel.text = k;
    kernel.entry = reinterpret_cast<void (*)(Group*)>(dlsym(loaded, ("__msl_entry_" + k.name).c_str()));
    if (!kernel.entry) throw std::runtime_error("the compiled library lacks kernel " + k.name);
    c.kernels.push_back(std::move(kernel));
  }
  const auto sizes = reinterpret_cast<unsigned long (*)(int)>(dlsym(loaded, "__msl_sizes"));
  for (auto* record = reinterpret_cast<const unsigned long*>(sizes(0));
       record && record < reinterpret_cast<const unsigned long*>(sizes(1)); record += 4) {
    auto& variables = c.kernels.at(record[0]).variables;
    if (variables.size() <= record[1]) variables.resize(record[1] + 1);
    variables[record[1]] = {record[2], record[3]};
  }
  return c;
}

std::string lineOf(const void* address, const Compiled& in) {
  Dl_info info;
  if (!address || !dladdr(address, &info) || !info.dli_fname || in.object != info.dli_fname) return "";
  char offset[32];
  std::snprintf(offset, sizeof offset, "0x%lx",
                static_cast<unsigned long>(static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase)));
  // The same code once more, with its line table: that costs too much to have it always.
  const std::string table = temporaryName(in.object) + ".lines.so";
  try {
    build(in.code, in.options, {"-gline-tables-only", "-gdwarf-4"}, table);
  } catch (const std::exception&) {
    return "";
  }
  // With inlined callers: the first that lies in the library's own text.
  const Outcome o = runProgram({"addr2line", "-i", "-e", table, offset});
  unlink(table.c_str());
  std::stringstream lines(o.output);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("program_source:");
    if (at == std::string::npos) continue;
    const unsigned number = unsigned(std::atoi(line.c_str() + at + 15));
    std::stringstream source(in.source);
    std::string text;
    for (unsigned i = 0; i < number && std::getline(source, text); ++i) {}
    const size_t first = text.find_first_not_of(" \t");
    return "line " + std::to_string(number) + ": " + (first == std::string::npos ? "" : text.substr(first));
  }
  return "";
}

}  // namespace vmetal
