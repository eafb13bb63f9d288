#include "calib/matrix_job.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "calib/scaled_tensor.h"
#include "lib/checked.h"
#include "lib/linalg.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "quant/non_finite.h"

namespace pennyweight {
namespace {

constexpr int64_t kTileElements = 1 << 21;
// Of the tiles that methods work on.
constexpr int64_t kJobRows = 512, kJobElements = 1 << 24;
// Rows of a matrix that decide how far it is corrected.
constexpr int64_t kPartRows = 1024;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

Error InTensorOf(Error error, const TensorInfo& info) {
  return std::move(error).InTensor(info.name).InFile(info.file);
}

// One way to quantize the matrix, and its error on the held-out rows.
struct Candidate {
  Method method;
  EncodedMatrix matrix;
  double heldout_error = 0;  // |X0 W^T - X Q^T|^2, X0 the original model's input
  std::optional<float> tensor_scale = std::nullopt;  // see ReadTensorScale
};

// `plan`: of gptq.
Status Encode(const Context& context, const MatrixJob& job, const Candidate& candidate,
              const GptqPlan* plan, const float* w, int64_t rows, int64_t cols,
              EncodedTensor* out) {
  const Encoding& encoding = job.choice->encoding;
  switch (candidate.method) {
    case Method::kMinMax:
      return QuantizeRtn(context, encoding, w, rows, cols, {}, ScaleSearch::kMinMax, out,
                         job.effort, candidate.tensor_scale);
    case Method::kGptq:
      return QuantizeGptq(context, *plan, w, rows, out);
    default:
      return QuantizeRtn(context, encoding, w, rows, cols, job.statistics->importance(),
                         ScaleSearch::kSearch, out, job.effort, candidate.tensor_scale);
  }
}

// A scale that spans the whole matrix is found before its first tile, for each way of its own.
Status FindTensorScales(const Context& context, const MatrixJob& job,
                        std::vector<Candidate>* list) {
  for (Candidate& candidate : *list) {
    const bool plain = candidate.method == Method::kMinMax;
    PW_ASSIGN(candidate.tensor_scale,
              ReadTensorScale(context, *job.source, job.index, job.choice->encoding,
                              plain ? std::span<const float>() : job.statistics->importance(),
                              plain ? ScaleSearch::kMinMax : ScaleSearch::kSearch));
  }
  return OkStatus();
}

// out[heldout_rows, rows] = X M^T for held-out inputs X and m[rows, k].
void HeldOutProduct(const Context& context, const InputStatistics& statistics, const float* x,
                    const float* m, int64_t rows, std::vector<float>* out) {
  out->resize(static_cast<size_t>(statistics.heldout_rows() * rows));
  GemmArgs args;
  args.m = statistics.heldout_rows();
  args.n = rows;
  args.k = statistics.k();
  args.a = x;
  args.a_stride = statistics.k();
  args.b = m;
  args.b_stride = statistics.k();
  args.c = out->data();
  args.c_stride = rows;
  Gemm(context, args);
}

// out[rows, k] = W C for w[rows, k]: how the statistics would correct W.
void CorrectionOf(const Context& context, const InputStatistics& statistics, const float* w,
                  int64_t rows, std::vector<float>* out) {
  const int64_t k = statistics.k();
  out->resize(static_cast<size_t>(rows * k));
  GemmNnArgs args;
  args.m = rows;
  args.n = args.k = k;
  args.a = w;
  args.a_stride = k;
  args.b = statistics.correction();
  args.b_stride = k;
  args.c = out->data();
  args.c_stride = k;
  GemmNn(context, args);
}

// The part of the correction that serves the held-out rows best: the a in [0, 1] with the least
// |X0 W^T - X (W + a W C)^T|^2, over at most kPartRows rows of W, evenly spaced.
Result<float> CorrectionPart(const Context& context, const MatrixJob& job) {
  const InputStatistics& statistics = *job.statistics;
  if (!job.factored || statistics.correction() == nullptr || statistics.heldout_rows() == 0) {
    return 0.0f;
  }
  const TensorInfo& info = job.source->tensors()[job.index];
  constexpr int64_t kBlock = TensorSink::kTileRows;
  const int64_t stride = kBlock * std::max<int64_t>(1, CeilDiv(info.rows(), kPartRows));
  std::vector<float> w, correction, want, have, more;
  double along = 0, square = 0;
  for (int64_t row = 0; row < info.rows(); row += stride) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t count = std::min(kBlock, info.rows() - row);
    w.resize(static_cast<size_t>(count * info.cols()));
    PW_TRY(ReadFloatRows(*job.source, job.index, row, count, w.data()));
    CorrectionOf(context, statistics, w.data(), count, &correction);
    HeldOutProduct(context, statistics, statistics.heldout_original(), w.data(), count, &want);
    HeldOutProduct(context, statistics, statistics.heldout(), w.data(), count, &have);
    HeldOutProduct(context, statistics, statistics.heldout(), correction.data(), count, &more);
    for (size_t i = 0; i < want.size(); ++i) {
      along += static_cast<double>(want[i] - have[i]) * more[i];
      square += static_cast<double>(more[i]) * more[i];
    }
  }
  return square > 0 ? static_cast<float>(std::clamp(along / square, 0.0, 1.0)) : 0.0f;
}

// Whether rtn's tiles can be wanted: as a fallback, as a choice, or beside it.
bool Keeps(const MatrixJob& job, size_t candidates) {
  const bool gptq_only = job.method == Method::kGptq && candidates > 2;
  return job.keep_rtn || !(gptq_only || job.method == Method::kMinMax);
}

// Makes every candidate, tile by tile, so that a weight is read and decoded once.
Status MakeCandidates(const Context& context, const MatrixJob& job, std::vector<Candidate>* list,
                      double* heldout_total) {
  const InputStatistics& statistics = *job.statistics;
  const TensorInfo& info = job.source->tensors()[job.index];
  const int64_t rows = info.rows(), cols = info.cols();
  const int64_t step = AlignTileRows(JobRows(cols), job.choice->encoding, cols);
  PW_TRY(FindTensorScales(context, job, list));
  InputPlan own;
  const GptqPlan* plan = nullptr;
  float part = 0;
  const auto is_gptq = [](const Candidate& c) { return c.method == Method::kGptq; };
  if (std::ranges::any_of(*list, is_gptq)) {
    PW_ASSIGN(plan, (job.plan != nullptr ? *job.plan : own)
                        .For(context, statistics, job.choice->encoding, job.effort));
    PW_ASSIGN(part, CorrectionPart(context, job));
  }
  std::vector<float> w, corrected, decoded, want, have;
  for (int64_t row = 0; row < rows; row += step) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t count = std::min(step, rows - row);
    w.resize(static_cast<size_t>(count * cols));
    PW_TRY(ReadFloatRows(*job.source, job.index, row, count, w.data()));
    HeldOutProduct(context, statistics, statistics.heldout_original(), w.data(), count, &want);
    for (const float y : want) *heldout_total += static_cast<double>(y) * y;
    for (Candidate& candidate : *list) {
      const float* target = w.data();
      if (is_gptq(candidate) && part > 0) {
        CorrectionOf(context, statistics, w.data(), count, &corrected);
        for (size_t i = 0; i < w.size(); ++i) corrected[i] = w[i] + part * corrected[i];
        target = corrected.data();
      }
      EncodedTensor tile;
      Status status = Encode(context, job, candidate, plan, target, count, cols, &tile);
      if (!status.ok()) {
        return InTensorOf(
            LocateNonFinite(std::move(status).TakeError(), w.data(), count, cols, row), info);
      }
      decoded.resize(w.size());
      DecodeRows(tile, 0, count, decoded.data());
      HeldOutProduct(context, statistics, statistics.heldout(), decoded.data(), count, &have);
      for (size_t i = 0; i < want.size(); ++i) {
        const double miss = static_cast<double>(want[i]) - have[i];
        candidate.heldout_error += miss * miss;
      }
      // A baseline of the report is measured, not kept.
      if (candidate.method == Method::kMinMax && job.method != Method::kMinMax) continue;
      if (candidate.method == Method::kRtn && !Keeps(job, list->size())) continue;
      candidate.matrix.tiles.push_back(std::move(tile));
    }
    if (context.progress != nullptr) context.progress->Advance(row + count);
  }
  return OkStatus();
}

// Puts weights back into the coordinates they had before they were folded.
void Unfold(const MatrixJob& job, int64_t first, int64_t rows, int64_t cols, float* w) {
  if (job.row_scale.empty() && job.col_scale.empty()) return;
  for (int64_t r = 0; r < rows; ++r) {
    const float row = job.row_scale.empty() ? 1 : job.row_scale[static_cast<size_t>(first + r)];
    for (int64_t c = 0; c < cols; ++c) {
      const float col = job.col_scale.empty() ? 1 : job.col_scale[static_cast<size_t>(c)];
      w[r * cols + c] /= row * col;
    }
  }
}

// |m R|^2 without what damping added to the Hessian, for m[rows, k].
Result<double> OutputSquare(const Context& context, const InputStatistics& statistics,
                            const float* m, int64_t rows) {
  const int64_t k = statistics.k();
  PW_ASSIGN(const double damped, NormThroughFactor(context, m, rows, statistics.r()));
  double added = 0;
  for (int64_t i = 0; i < rows * k; ++i) {
    added += statistics.added()[static_cast<size_t>(i % k)] * (static_cast<double>(m[i]) * m[i]);
  }
  return damped - added;
}

// Measures the chosen tiles against the source.
Status MeasureMatrix(const Context& context, const MatrixJob& job, const EncodedMatrix& matrix,
                     WeightError* weight, double* output_error, double* output_total) {
  const int64_t cols = job.source->tensors()[job.index].cols();
  std::vector<float> w, decoded, miss;
  int64_t row = 0;
  for (const EncodedTensor& tile : matrix.tiles) {
    w.resize(static_cast<size_t>(tile.rows * cols));
    decoded.resize(w.size());
    PW_TRY(ReadFloatRows(*job.source, job.index, row, tile.rows, w.data()));
    DecodeRows(tile, 0, tile.rows, decoded.data());
    if (job.factored) {
      miss.resize(w.size());
      for (size_t i = 0; i < w.size(); ++i) miss[i] = w[i] - decoded[i];
      PW_ASSIGN(const double whole, OutputSquare(context, *job.statistics, w.data(), tile.rows));
      PW_ASSIGN(const double missed,
                OutputSquare(context, *job.statistics, miss.data(), tile.rows));
      *output_total += whole;
      *output_error += missed;
    }
    Unfold(job, row, tile.rows, cols, w.data());
    Unfold(job, row, tile.rows, cols, decoded.data());
    WeightError total;
    total.Add(w.data(), decoded.data(), static_cast<int64_t>(w.size()));
    weight->Merge(total);
    row += tile.rows;
  }
  return OkStatus();
}

// Whether gptq takes the type: nothing else chooses codes column by column.
bool HasGrid(const MatrixJob& job) {
  const TensorInfo& info = job.source->tensors()[job.index];
  return MakeGrid(job.choice->encoding, info.cols()) != nullptr;
}

// The candidate that the method asks for; auto takes gptq unless held-out error rises.
const Candidate* Choose(const MatrixJob& job, const std::vector<Candidate>& list,
                        TensorReport* report) {
  const auto find = [&](Method method) -> const Candidate* {
    for (const Candidate& c : list) {
      if (c.method == method) return &c;
    }
    return nullptr;
  };
  if (job.method == Method::kMinMax || job.method == Method::kRtn) return find(job.method);
  const Candidate* gptq = find(Method::kGptq);
  const Candidate* rtn = find(Method::kRtn);
  if (gptq == nullptr) {
    const Encoding& encoding = job.choice->encoding;
    report->fallback = HasGrid(job) ? "the Hessian could not be factored: rtn"
                                    : "gptq does not choose codes of " + encoding.Name() + ": rtn";
    return rtn;
  }
  if (job.method == Method::kAuto && gptq->heldout_error > rtn->heldout_error) return rtn;
  if (job.statistics->shrink() > 0) {
    report->fallback = "the Hessian could not be factored until it was shrunk to its diagonal";
  } else if (job.statistics->damp() > kDamp) {
    report->fallback = "the Hessian could not be factored until it was damped more";
  }
  return gptq;
}

}  // namespace

void FillWeightError(const WeightError& error, TensorReport* report) {
  report->weight_rel_mse = error.RelMse();
  report->sqnr_db = error.SqnrDb();
  report->max_abs_error = error.max_abs_error;
  report->cosine = error.Cosine();
}

std::string_view MethodName(Method method) {
  switch (method) {
    case Method::kMinMax:
      return "minmax";
    case Method::kRtn:
      return "rtn";
    case Method::kGptq:
      return "gptq";
    case Method::kAwq:
      return "awq";
    case Method::kAuto:
      return "auto";
  }
  return "";
}

std::optional<Method> FindMethod(std::string_view name) {
  for (const Method m :
       {Method::kMinMax, Method::kRtn, Method::kGptq, Method::kAwq, Method::kAuto}) {
    if (MethodName(m) == name) return m;
  }
  return std::nullopt;
}

Result<const GptqPlan*> InputPlan::For(const Context& context, const InputStatistics& statistics,
                                       const Encoding& encoding, Effort effort) {
  if (plan_ == nullptr || !(plan_->encoding() == encoding) || plan_->effort() != effort) {
    plan_ = nullptr;  // before there are two
    const HessianFactor factor{statistics.r(), statistics.importance()};
    PW_ASSIGN(plan_, GptqPlan::Make(context, encoding, factor, effort));
  }
  return plan_.get();
}

int64_t TileRows(int64_t cols) {
  const int64_t rows = kTileElements / std::max<int64_t>(1, cols);
  return std::max(TensorSink::kTileRows, rows / TensorSink::kTileRows * TensorSink::kTileRows);
}

int64_t JobRows(int64_t cols) {
  const int64_t rows = std::min(kJobRows, kJobElements / std::max<int64_t>(1, cols));
  return std::max(TileRows(cols), rows / TensorSink::kTileRows * TensorSink::kTileRows);
}

void EncodedMatrix::Decode(float* out) const {
  for (const EncodedTensor& tile : tiles) {
    DecodeRows(tile, 0, tile.rows, out);
    out += tile.rows * tile.cols;
  }
}

int64_t EncodedMatrix::rows() const {
  int64_t n = 0;
  for (const EncodedTensor& tile : tiles) n += tile.rows;
  return n;
}

void ErrorSums::Merge(const ErrorSums& other) {
  weight.Merge(other.weight);
  output_error += other.output_error;
  output_total += other.output_total;
}

Result<MatrixResult> QuantizeMatrix(const Context& context, const MatrixJob& job,
                                    TensorReport* report, ErrorSums* sums) {
  const auto start = std::chrono::steady_clock::now();
  const InputStatistics& statistics = *job.statistics;
  std::vector<Candidate> list;
  list.push_back({Method::kRtn, {}, 0});
  list.push_back({Method::kMinMax, {}, 0});
  const bool wants_gptq = job.method == Method::kGptq || job.method == Method::kAuto;
  if (wants_gptq && job.factored && HasGrid(job)) list.push_back({Method::kGptq, {}, 0});
  double heldout_total = 0;
  if (context.progress != nullptr) {
    const TensorInfo& info = job.source->tensors()[job.index];
    context.progress->Phase("rows of " + info.name, info.rows());
  }
  PW_TRY(MakeCandidates(context, job, &list, &heldout_total));

  const Candidate* chosen = Choose(job, list, report);
  report->method = MethodName(chosen->method);
  report->tokens = statistics.tokens();
  if (statistics.heldout_rows() > 0 && heldout_total > 0) {
    report->output_rel_error_heldout = chosen->heldout_error / heldout_total;
    report->output_rel_error_rtn = list[0].heldout_error / heldout_total;
    report->output_rel_error_minmax = list[1].heldout_error / heldout_total;
  }
  if (chosen->method == Method::kGptq) report->damp = statistics.damp();

  WeightError weight;
  double output_error = 0, output_total = 0;
  PW_TRY(MeasureMatrix(context, job, chosen->matrix, &weight, &output_error, &output_total));
  FillWeightError(weight, report);
  if (job.factored && output_total > 0) {
    report->output_rel_error = std::max(0.0, output_error) / output_total;
    sums->output_error += std::max(0.0, output_error);
    sums->output_total += output_total;
  }
  sums->weight.Merge(weight);
  report->seconds = Seconds(start);

  MatrixResult result;
  if (job.keep_rtn && chosen->method != Method::kRtn) result.rtn = std::move(list[0].matrix);
  result.chosen = std::move(const_cast<Candidate*>(chosen)->matrix);
  return result;
}

Status WriteTiles(std::span<const EncodedTensor> tiles, size_t index, TensorSink* sink) {
  int64_t row = 0;
  for (const EncodedTensor& tile : tiles) {
    PW_TRY(sink->Write(index, row, tile));
    row += tile.rows;
  }
  return OkStatus();
}

}  // namespace pennyweight
