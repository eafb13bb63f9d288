#include "lib/hash.h"

#include <xxhash.h>

namespace pennyweight {
namespace {

// High word first: printed in order, the two words are the canonical form that xxhsum prints.
Hash128 FromXxh(XXH128_hash_t hash) { return {hash.high64, hash.low64}; }

}  // namespace

struct Hasher::State {
  XXH3_state_t* xxh;  // libxxhash allocates it, because of its alignment of 64

  State() : xxh(XXH3_createState()) { XXH3_128bits_reset(xxh); }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Hash128 HashBytes(const void* data, uint64_t bytes) { return FromXxh(XXH3_128bits(data, bytes)); }

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;

void Hasher::Update(const void* data, uint64_t bytes) {
  if (bytes > 0) XXH3_128bits_update(state_->xxh, data, bytes);
}

Hash128 Hasher::Digest() const { return FromXxh(XXH3_128bits_digest(state_->xxh)); }

}  // namespace pennyweight
