#include "lib/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <vector>

namespace pennyweight {
namespace {

constexpr uint64_t kWindow = 1 << 20;

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context;

  State() : context(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context, EVP_sha256(), nullptr); }
  ~State() { EVP_MD_CTX_free(context); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::Update(const void* data, uint64_t bytes) {
  EVP_DigestUpdate(state_->context, data, bytes);
}

std::string Sha256::HexDigest() {
  unsigned char digest[EVP_MAX_MD_SIZE] = {};
  unsigned int length = 0;
  EVP_DigestFinal_ex(state_->context, digest, &length);
  std::string out;
  for (unsigned int i = 0; i < length; ++i) out += fmt::format("{:02x}", digest[i]);
  return out;
}

Result<std::string> Sha256OfFile(const ReadFile& file) {
  std::vector<char> window(std::min(kWindow, file.size()));
  Sha256 hash;
  for (uint64_t at = 0; at < file.size(); at += kWindow) {
    const uint64_t n = std::min(kWindow, file.size() - at);
    PW_TRY(file.ReadAt(at, window.data(), n));
    hash.Update(window.data(), n);
  }
  return hash.HexDigest();
}

}  // namespace pennyweight
