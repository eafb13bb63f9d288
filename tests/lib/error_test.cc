#include "lib/error.h"

#include <doctest/doctest.h>

namespace pennyweight {
namespace {

TEST_CASE("errors say where they are, and nothing of a file steers the terminal") {
  const Error error = Error(ErrorCode::kInvalidName, "bad\x1b[2J")
                          .InFile("a\nb")
                          .InTensor("t\xc2\x9b\xc3\xa9\x7f")
                          .At(7);
  CHECK(error.ToString() == "a\\x0ab: tensor \"t\\xc2\\x9b\xc3\xa9\\x7f\": bad\\x1b[2J (offset 7)");
  // What programs read stays as it is.
  CHECK(error.message == "bad\x1b[2J");
}

}  // namespace
}  // namespace pennyweight
