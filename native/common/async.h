// Off-thread work that JavaScript sees as a promise. Two forms, one error type:
//
//   runAsync    work of bounded length on libuv's pool (loading, compiling, copying)
//   Completion  a promise that a driver's own thread settles (waiting for a device: a fence may take seconds, and
//               libuv has four threads for the whole process, file system included, so it must not wait there)
//
// Lambdas that run off-thread must not touch Napi values; keep those alive with a Napi::Reference held by `result`.

#pragma once

#include <napi.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
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

/** The JavaScript error for `error`: an `Error` whose `code` is that of tutti::Error, or `internal`. */
inline Napi::Error toJsError(Napi::Env env, const std::exception& error) {
  const auto* coded = dynamic_cast<const Error*>(&error);
  Napi::Error js = Napi::Error::New(env, error.what());
  js.Set("code", Napi::String::New(env, coded ? coded->code() : "internal"));
  return js;
}

/** Same, for an exception that travelled from another thread. */
inline Napi::Error toJsError(Napi::Env env, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return toJsError(env, e);
  } catch (...) {
    return toJsError(env, Error("internal", "unknown native exception"));
  }
}

/** Runs a synchronous binding's body and turns a C++ exception into a JavaScript one that carries `code`. */
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& e) {
    throw toJsError(env, e);
  }
}

namespace detail {

struct Nothing {};

template <class T>
using Stored = std::conditional_t<std::is_void_v<T>, Nothing, T>;

/** Settles `deferred` on the JavaScript thread with `result(env[, value])`, or with the exception that it throws. */
template <class T, class Result>
void settle(Napi::Env env, Napi::Promise::Deferred& deferred, std::exception_ptr error, std::optional<Stored<T>>& value,
            Result& result) {
  if (error) {
    deferred.Reject(toJsError(env, error).Value());
    return;
  }
  try {
    if constexpr (std::is_void_v<T>) {
      deferred.Resolve(result(env));
    } else {
      deferred.Resolve(result(env, std::move(*value)));
    }
  } catch (const Napi::Error& e) {
    deferred.Reject(e.Value());
  } catch (const std::exception& e) {
    deferred.Reject(toJsError(env, e).Value());
  }
}

template <class T, class Work, class Result>
class PromiseWorker final : public Napi::AsyncWorker {
 public:
  PromiseWorker(Napi::Env env, Work work, Result result)
      : Napi::AsyncWorker(env, "tutti"),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        result_(std::move(result)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      if constexpr (std::is_void_v<T>) {
        work_();
      } else {
        value_.emplace(work_());
      }
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    settle<T>(Env(), deferred_, error_, value_, result_);
  }

 private:
  Napi::Promise::Deferred deferred_;
  Work work_;
  Result result_;
  std::optional<Stored<T>> value_;
  std::exception_ptr error_;
};

}  // namespace detail

/**
 * Runs `work()` on libuv's pool and returns a promise of `result(env, value)`, called on the JavaScript thread with
 * what `work` returned (`result(env)` where it returns nothing). What `work` throws rejects the promise.
 */
template <class Work, class Result>
Napi::Promise runAsync(Napi::Env env, Work work, Result result) {
  using T = std::invoke_result_t<Work>;
  auto* worker = new detail::PromiseWorker<T, Work, Result>(env, std::move(work), std::move(result));
  Napi::Promise promise = worker->promise();
  worker->Queue();  // deletes itself after OnOK
  return promise;
}

/** Same, for work without a value: the promise resolves to undefined. */
template <class Work>
Napi::Promise runAsync(Napi::Env env, Work work) {
  static_assert(std::is_void_v<std::invoke_result_t<Work>>, "work returns a value: say how it becomes a Napi::Value");
  return runAsync(env, std::move(work), [](Napi::Env e) { return e.Undefined(); });
}

/**
 * A promise that any thread settles, once; later calls do nothing. Dropping it unsettled rejects with `abandoned`.
 * A pending one keeps the process alive, as a pending file read would.
 *
 *   auto done = Completion::create(env);
 *   std::thread([done] { wait(); done->resolve(); });
 *   return done->promise();
 */
class Completion {
 public:
  /** On the JavaScript thread. `result` makes the resolved value there, and may hold Napi references. */
  template <class Result>
  static std::shared_ptr<Completion> create(Napi::Env env, Result result) {
    return std::shared_ptr<Completion>(new Completion(env, std::move(result)));
  }
  static std::shared_ptr<Completion> create(Napi::Env env) {
    return create(env, [](Napi::Env e) -> Napi::Value { return e.Undefined(); });
  }

  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  ~Completion() { settle(std::make_exception_ptr(Error("abandoned", "the device was closed before the work ended"))); }

  /** Only within the native call that created it. */
  Napi::Promise promise() const { return state_->deferred.Promise(); }

  void resolve() { settle(nullptr); }
  void reject(const Error& error) { settle(std::make_exception_ptr(error)); }
  void reject(std::exception_ptr error) { settle(std::move(error)); }

 private:
  struct State {
    Napi::Promise::Deferred deferred;
    std::function<Napi::Value(Napi::Env)> result;
    std::exception_ptr error;
  };

  static void onJsThread(Napi::Env env, Napi::Function, std::nullptr_t*, std::shared_ptr<State>* message) {
    std::unique_ptr<std::shared_ptr<State>> owned(message);
    if (env == nullptr) return;  // the environment is going away: nobody is left to tell
    Napi::HandleScope scope(env);
    State& state = **owned;
    std::optional<detail::Nothing> none;
    detail::settle<void>(env, state.deferred, state.error, none, state.result);
    state.result = nullptr;  // here, because it may hold Napi references and the last owner may be another thread
  }

  using Channel = Napi::TypedThreadSafeFunction<std::nullptr_t, std::shared_ptr<State>, onJsThread>;

  template <class Result>
  Completion(Napi::Env env, Result result)
      : state_(new State{Napi::Promise::Deferred::New(env), std::move(result), nullptr}),
        channel_(Channel::New(env, "tutti", 0, 1)) {}

  void settle(std::exception_ptr error) {
    if (settled_.exchange(true)) return;
    state_->error = std::move(error);
    // Refused only when the environment is closing; the message is then left alone, as it holds JavaScript handles.
    channel_.NonBlockingCall(new std::shared_ptr<State>(state_));
    channel_.Release();
  }

  std::atomic<bool> settled_{false};
  std::shared_ptr<State> state_;
  Channel channel_;
};

}  // namespace tutti
