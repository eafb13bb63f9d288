#include "calib/choose_candidate.h"

#include <doctest/doctest.h>

#include <random>

namespace pennyweight {
namespace {

TEST_CASE("a challenger has to win by more than the noise of the windows") {
  const WindowErrors incumbent{1, 2, 3, 4};
  CHECK(Beats(WindowErrors{0.9, 1.9, 2.9, 3.9}, incumbent));        // always a little
  CHECK_FALSE(Beats(WindowErrors{1.1, 2.1, 3.1, 4.1}, incumbent));  // always a little worse
  CHECK_FALSE(Beats(incumbent, incumbent));
  // Mean difference -0.25, but its standard error is 1.03.
  CHECK_FALSE(Beats(WindowErrors{3, 1, 1, 4}, incumbent));
  CHECK(Beats(WindowErrors{0.5}, WindowErrors{0.6}));
  CHECK_FALSE(Beats(WindowErrors{0.6}, WindowErrors{0.5}));
}

TEST_CASE("windows of the same errors rarely part two candidates") {
  std::mt19937 random(3);
  std::normal_distribution<double> noise(0, 0.1);
  int changes = 0;
  for (int trial = 0; trial < 1000; ++trial) {
    WindowErrors a, b;
    for (int w = 0; w < 16; ++w) {
      const double base = 1 + noise(random);
      a.push_back(base + 0.1 * noise(random));
      b.push_back(base + 0.1 * noise(random));
    }
    changes += Beats(a, b) ? 1 : 0;
  }
  // One standard error to one side: about 16 %.
  CHECK(changes > 80);
  CHECK(changes < 240);
}

TEST_CASE("tokens count alike in a window's error") {
  // The second token is a thousand times as large as the first; both miss by a tenth.
  const float want[] = {1, 0, 1000, 0}, got[] = {0.9f, 0, 900, 0};
  CHECK(WindowError(want, got, 2, 2) == doctest::Approx(0.02));
  const float zero[] = {0, 0};
  CHECK(WindowError(zero, got, 1, 2) == 0);
}

}  // namespace
}  // namespace pennyweight
