#include "quant/search_trials.h"

#include <iterator>

namespace pennyweight {
namespace {

// Of random blocks, Gaussian and of uneven columns, and of blocks of a trained model, half of them
// with log-normal importance. The number of columns that a list was chosen for is in its name.
constexpr float kTop2[] = {2.67f,  -2.7f,  3.54f,  2.2f,  -3.48f, -2.23f, 2.98f, 2.42f,
                           1.95f,  -3.08f, -2.45f, 3.26f, 3.58f,  -3.58f, 2.83f, 1.67f,
                           -1.98f, 2.54f,  2.33f,  2.11f, -2.83f, 1.42f,  3.08f, -2.58f};
constexpr float kTop4[] = {4.61f,  5.42f,  4.05f, -4.74f, 6.49f, 4.92f, 4.36f,  -4.17f,
                           -5.67f, 3.74f,  7.17f, 5.86f,  5.17f, 3.36f, -5.17f, -6.42f,
                           4.17f,  -4.49f, 4.8f,  -3.92f, 3.92f, 5.61f, 4.49f,  6.17f};
constexpr float kTop8By32[] = {8.22f,  8.85f, 7.22f,  7.85f,  9.85f, 8.47f, 6.85f,   9.22f,
                               10.47f, 6.22f, -8.47f, 12.97f, 7.97f, 7.6f,  -9.47f,  -7.97f,
                               8.6f,   11.1f, -8.85f, 9.6f,   7.1f,  7.35f, -10.35f, 5.97f};
constexpr float kTop8By128[] = {8.72f,  9.6f,  8.1f,    10.85f, 9.1f,  -8.47f, 8.47f, 12.85f,
                                10.1f,  7.72f, -9.6f,   11.6f,  9.35f, 8.35f,  8.85f, -8.85f,
                                10.47f, 9.85f, -10.85f, -8.22f, 7.22f, 14.35f, 7.85f, -9.22f};
constexpr float kTop16By32[] = {16.1f, 15.1f,  16.7f, 14.1f, 15.7f,  17.3f, 13.1f, 16.4f,
                                14.8f, 18.3f,  12.0f, 13.7f, 15.3f,  15.9f, 14.3f, 16.9f,
                                19.5f, -16.5f, 17.7f, 12.9f, -18.4f, 11.4f, 16.3f, 13.9f};
constexpr float kTop16By128[] = {16.5f, 17.4f, 15.9f,  18.5f, 15.2f, 16.9f, 20.0f, 16.2f,
                                 17.9f, 21.7f, 14.8f,  15.7f, 16.7f, 19.2f, 17.1f, -16.7f,
                                 14.1f, 23.2f, -17.2f, 20.8f, 16.4f, 17.7f, 16.1f, 18.2f};
// Long blocks: as multiples of the largest code, and between those.
constexpr float kLongRatios[] = {1.25f, 1.57f, 1.0f,  1.4f, 1.76f, 1.12f, 1.97f, 2.3f,
                                 2.7f,  3.3f,  4.2f,  5.8f, 1.06f, 1.33f, 1.48f, 1.66f,
                                 1.18f, 1.86f, 2.13f, 2.5f, 3.0f,  3.7f,  5.0f,  0.9f};
constexpr float kNear[] = {0.96f, 1.04f, -1.0f, -1.04f};

// In steps away from the largest code.
constexpr float kFineTop127By32[] = {0.0f,     -2.0f,  -4.0f,   -1.0f,    -6.0f,  -2.875f,
                                     -5.0f,    -9.0f,  -6.875f, -10.875f, 0.375f, -7.875f,
                                     -10.125f, -14.0f, -12.25f, -13.0f,   -3.25f, -1.75f,
                                     -0.375f,  0.875f, -5.75f,  -2.375f,  -9.75f, -11.625f};
constexpr float kFineTop128By128[] = {0.125f,  -1.125f, -2.875f, -1.875f, -0.375f, -5.125f,
                                      -4.0f,   0.625f,  -6.125f, -6.875f, -0.875f, -2.25f,
                                      -3.25f,  1.375f,  -8.0f,   0.375f,  -4.375f, 2.625f,
                                      -1.375f, -0.125f, -7.25f,  -3.75f,  -5.875f, -4.875f};
constexpr float kFineTop64By64[] = {0.125f, -1.125f, -2.125f, -3.0f,   0.625f,  -4.0f,
                                    -0.25f, -4.875f, -1.75f,  1.75f,   -0.75f,  -8.125f,
                                    -7.25f, -6.0f,   -2.75f,  0.375f,  -3.25f,  -9.0f,
                                    1.125f, -5.25f,  -6.625f, -1.375f, -4.625f, -12.25f};
constexpr float kFineTop32By64[] = {0.1f,  -0.9f, 0.6f,  -1.9f, -0.3f, -3.1f, 1.4f,  -1.2f,
                                    -3.9f, 0.4f,  0.9f,  -2.2f, 3.1f,  -0.1f, -5.9f, 2.1f,
                                    -0.7f, -1.7f, -5.2f, -2.8f, -1.4f, 0.2f,  1.1f,  -1.1f};
constexpr float kFineLong[] = {0.994f, 1.006f, 0.982f, 1.014f, 0.998f, 0.97f, 0.95f, 0.99f,
                               0.93f,  0.9f,   0.86f,  1.01f,  0.8f,   0.72f, 0.65f, 0.978f,
                               1.002f, 0.974f, 0.986f, 1.018f, 0.96f,  0.94f, 0.88f, 0.5f};

constexpr Ends kZeroPoint15By32[] = {
    {0.02f, 0.02f},   {-0.04f, -0.01f}, {0.06f, 0.04f}, {0, 0},         {-0.08f, -0.08f},
    {0, 0.1f},        {-0.08f, -0.01f}, {0.06f, 0},     {0.1f, 0.04f},  {0.06f, 0.1f},
    {0, 0.02f},       {-0.02f, 0},      {0.04f, 0.04f}, {0.02f, 0.19f}, {0.16f, -0.01f},
    {0, 0.06f},       {-0.08f, -0.04f}, {0.02f, 0},     {0.02f, 0.1f},  {0.1f, 0},
    {-0.06f, -0.01f}, {0.04f, 0.16f},   {-0.04f, 0},    {0.08f, -0.01f}};
constexpr Ends kZeroPoint15By128[] = {
    {0.04f, 0.04f}, {0.08f, 0.06f}, {0.02f, 0.02f}, {0.02f, 0.1f},  {0.13f, 0.06f}, {0, 0},
    {0.08f, 0.02f}, {0.04f, 0.13f}, {0.13f, 0.1f},  {0.02f, 0.04f}, {0.13f, 0.02f}, {0.02f, 0.19f},
    {0.02f, 0.08f}, {-0.04f, 0},    {0.19f, 0.04f}, {0.08f, 0.1f},  {0.13f, 0.16f}, {0.08f, 0.04f},
    {0, 0.02f},     {0.02f, 0.13f}, {0.27f, 0.08f}, {0.19f, 0.1f},  {0.06f, 0},     {0.08f, 0.23f}};
constexpr Ends kZeroPoint3By64[] = {
    {0.16f, 0.16f},  {0.16f, 0.27f}, {0.33f, 0.08f}, {0.13f, 0.4f},  {0.08f, 0.13f},
    {0.33f, 0.19f},  {0.19f, 0.08f}, {0.1f, 0.27f},  {0.27f, 0.33f}, {0.4f, 0.1f},
    {-0.01f, 0.33f}, {0.1f, 0.04f},  {0.16f, 0.33f}, {0.23f, 0.13f}, {0.4f, 0.19f},
    {0.33f, 0.13f},  {0.23f, 0.4f},  {0.04f, 0.4f},  {0, 0.27f},     {0.16f, 0.23f},
    {-0.01f, 0},     {0.19f, 0.4f},  {0.23f, 0.08f}, {0.27f, 0.27f}};

constexpr Ends kZeroPoint7By64[] = {
    {0.08f, 0.06f}, {0.06f, 0.16f}, {0.16f, 0.06f}, {0.02f, 0.04f}, {0.16f, 0.19f}, {0.23f, 0.1f},
    {0.06f, 0.27f}, {0.08f, 0.02f}, {0.08f, 0.1f},  {-0.01f, 0},    {0.19f, 0.27f}, {0.1f, 0.16f},
    {0.04f, 0.08f}, {0.23f, 0.04f}, {0.08f, 0.33f}, {0.13f, 0.04f}, {-0.06f, 0},    {0.27f, 0.16f},
    {0.33f, 0.06f}, {0.04f, 0.16f}, {0.13f, 0.16f}, {0.02f, 0.02f}, {0, 0.27f},     {0.02f, 0.13f}};
constexpr Ends kZeroPoint31By64[] = {
    {0.01f, 0.01f},   {-0.019f, -0.005f}, {-0.039f, -0.039f}, {0.029f, 0.019f},
    {0, 0},           {0.019f, 0.048f},   {-0.039f, -0.01f},  {0.01f, 0.019f},
    {0.048f, 0.029f}, {0.01f, 0.077f},    {0.039f, 0},        {-0.01f, 0},
    {0.01f, 0},       {0.092f, 0.029f},   {-0.039f, -0.019f}, {-0.029f, -0.005f},
    {0.048f, 0.01f},  {0, 0.048f},        {0.039f, 0.048f},   {0.077f, 0.01f},
    {0.131f, 0},      {0.01f, 0.029f},    {0.077f, 0.077f},   {0.019f, 0.039f}};

constexpr Ends kAffine15[] = {{0.02f, 0.02f},   {0.04f, -0.01f},  {-0.01f, 0.02f}, {0.02f, 0},
                              {0, -0.06f},      {-0.01f, 0},      {-0.01f, 0.04f}, {-0.06f, -0.01f},
                              {-0.06f, -0.06f}, {0.02f, 0.04f},   {0.04f, 0.02f},  {0, -0.01f},
                              {0.02f, 0.08f},   {0.02f, -0.01f},  {0.06f, 0},      {-0.02f, -0.06f},
                              {0.1f, 0},        {0.02f, -0.06f},  {0, 0.02f},      {-0.01f, 0.1f},
                              {0.02f, 0.06f},   {-0.06f, -0.02f}, {0.04f, 0.04f},  {-0.02f, 0.02f},
                              {0.06f, 0.02f},   {-0.04f, -0.06f}, {0, 0},          {0.02f, -0.02f},
                              {0, 0.08f},       {-0.02f, 0},      {0, 0.04f},      {0.06f, -0.01f}};
constexpr Ends kAffine31[] = {{0, 0},
                              {-0.029f, 0.01f},
                              {-0.005f, 0.01f},
                              {0.01f, -0.005f},
                              {-0.029f, -0.005f},
                              {-0.029f, -0.029f},
                              {0.01f, 0.01f},
                              {-0.005f, 0.019f},
                              {-0.005f, -0.029f},
                              {0.019f, -0.005f},
                              {-0.029f, -0.019f},
                              {-0.005f, -0.01f},
                              {-0.029f, 0},
                              {-0.01f, 0},
                              {0.019f, 0.01f},
                              {0.01f, 0.019f},
                              {-0.019f, -0.029f},
                              {-0.019f, 0},
                              {0, 0.039f},
                              {0, 0.01f},
                              {0.01f, 0},
                              {0.039f, 0.01f},
                              {0, -0.029f},
                              {-0.01f, -0.029f},
                              {0.019f, 0.029f},
                              {-0.029f, -0.01f},
                              {0.01f, -0.01f},
                              {0, -0.01f},
                              {0, 0.019f},
                              {0.019f, 0},
                              {0.063f, 0.019f},
                              {-0.01f, -0.005f}};

int Count(Effort effort) {
  if (effort == Effort::kFast) return 8;
  return effort == Effort::kNormal ? 12 : 24;
}

template <class List, class T, size_t kSize>
List Begin(const T (&all)[kSize], int count) {
  static_assert(kSize >= 24);
  return {all, count};
}

}  // namespace

int Refits(Effort effort) { return effort == Effort::kBest ? 2 : 1; }

TrialList SymmetricTrials(int top, int64_t n, Effort effort) {
  const int count = Count(effort);
  const auto begin = [&](const auto& all) { return Begin<TrialList>(all, count); };
  const bool is_long = n > 64;
  if (top <= 2) return begin(kTop2);
  if (top <= 4) return begin(kTop4);
  if (top <= 8) return is_long ? begin(kTop8By128) : begin(kTop8By32);
  return is_long ? begin(kTop16By128) : begin(kTop16By32);
}

TrialList LongTrials(Effort effort) { return Begin<TrialList>(kLongRatios, Count(effort)); }

TrialList NearTrials() { return {kNear, static_cast<int>(std::size(kNear))}; }

int FineTrialCount(Effort effort) { return Count(effort); }

float FineTrial(int k, int top, int64_t n) {
  const auto largest = static_cast<float>(top);
  if (n > kLongBlock) return largest / kFineLong[k];
  if (top < 48) return largest + kFineTop32By64[k];
  if (top < 96) return largest + kFineTop64By64[k];
  return largest + (n > 64 ? kFineTop128By128[k] : kFineTop127By32[k]);
}

EndsList ZeroPointTrials(int levels, int64_t n, Effort effort) {
  const auto begin = [&](const auto& all) { return Begin<EndsList>(all, Count(effort)); };
  if (levels <= 3) return begin(kZeroPoint3By64);
  if (levels <= 7) return begin(kZeroPoint7By64);
  if (levels > 15) return begin(kZeroPoint31By64);
  return n > 64 ? begin(kZeroPoint15By128) : begin(kZeroPoint15By32);
}

EndsList AffineTrials(int levels, Effort effort) {
  const int count = effort == Effort::kFast ? 8 : effort == Effort::kNormal ? 20 : 32;
  return Begin<EndsList>(levels > 15 ? kAffine31 : kAffine15, count);
}

}  // namespace pennyweight
