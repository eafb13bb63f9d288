#include "lib/base64.h"

#include <doctest/doctest.h>

#include <random>

namespace pennyweight {
namespace {

std::vector<uint8_t> Bytes(std::string_view text) { return {text.begin(), text.end()}; }

TEST_CASE("base64: the vectors of RFC 4648") {
  const std::pair<std::string_view, std::string_view> vectors[] = {{"", ""},
                                                                   {"f", "Zg=="},
                                                                   {"fo", "Zm8="},
                                                                   {"foo", "Zm9v"},
                                                                   {"foob", "Zm9vYg=="},
                                                                   {"fooba", "Zm9vYmE="},
                                                                   {"foobar", "Zm9vYmFy"}};
  for (const auto& [plain, text] : vectors) {
    CHECK(EncodeBase64(Bytes(plain)) == text);
    CHECK(DecodeBase64(text) == Bytes(plain));
  }
}

TEST_CASE("base64: random bytes come back; other texts are refused") {
  std::mt19937 random(1);
  for (size_t size = 0; size < 300; ++size) {
    std::vector<uint8_t> bytes(size);
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
    CHECK(DecodeBase64(EncodeBase64(bytes)) == bytes);
  }
  for (const char* bad : {"Zg", "Zg=", "Zg==\n", "Z g=", "Zm9v=", "====", "Zm8=Zm8=", "Zh==",
                          "Zm9=", "Zm9\xff", "Z===", "-_==", "Zg=A"}) {
    CAPTURE(bad);
    CHECK_FALSE(DecodeBase64(bad).has_value());
  }
}

}  // namespace
}  // namespace pennyweight
