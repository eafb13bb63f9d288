// Status and Result<T>: how every function below cmd/ reports failure. Nothing throws.
#pragma once

#include <memory>
#include <utility>
#include <variant>

#include "lib/error.h"

namespace pennyweight {

// Success, or an Error. Cheap when ok (one null pointer).
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::make_unique<Error>(std::move(error))) {}  // NOLINT: implicit

  bool ok() const { return error_ == nullptr; }
  const Error& error() const { return *error_; }
  Error TakeError() && { return std::move(*error_); }

 private:
  std::unique_ptr<Error> error_;
};

inline Status OkStatus() { return Status(); }

// A T, or an Error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT: implicit
  Result(Error error) : state_(std::move(error)) {}  // NOLINT: implicit

  bool ok() const { return state_.index() == 0; }
  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  const Error& error() const { return *std::get_if<1>(&state_); }
  Error TakeError() && { return std::move(*std::get_if<1>(&state_)); }

  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() { return value(); }
  const T& operator*() const { return value(); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace pennyweight

// PW_TRY(expr): returns from the enclosing function when the Status or Result is an error.
#define PW_TRY(...)                                              \
  do {                                                           \
    auto pw_status = (__VA_ARGS__);                              \
    if (!pw_status.ok()) return std::move(pw_status).TakeError(); \
  } while (0)

#define PW_CONCAT_IMPL(a, b) a##b
#define PW_CONCAT(a, b) PW_CONCAT_IMPL(a, b)
// PW_ASSIGN(auto x, expr): x = value of the Result, or returns its error.
#define PW_ASSIGN(lhs, ...) PW_ASSIGN_IMPL(PW_CONCAT(pw_result_, __LINE__), lhs, __VA_ARGS__)
#define PW_ASSIGN_IMPL(tmp, lhs, ...)                 \
  auto tmp = (__VA_ARGS__);                           \
  if (!tmp.ok()) return std::move(tmp).TakeError();   \
  lhs = std::move(tmp).value()
