// What the search for scales of Q2_K Q4_K Q5_K tries.
//
// Which ranges and which neighbours are worth a trial was found by choosing, one after the other,
// what lowers the error of random normal weights most, plain and with log-normal importance.
#pragma once

#include <span>

#include "quant/effort.h"

namespace pennyweight {

// A range to try: its ends moved in from minimum and maximum, in steps of the full range's codes.
struct AffineRange {
  float low, high;
};
// For equal importance of all columns, and for unequal; by the largest code.
inline constexpr AffineRange kPlain3[] = {{.3f, .4f}, {.4f, .1f}, {0, .2f},   {.1f, 0},
                                          {.2f, .5f}, {.5f, 0},   {.4f, .3f}, {-.1f, .5f}};
inline constexpr AffineRange kPlain15[] = {{.4f, .3f},  {.5f, -.1f}, {-.1f, .4f}, {.3f, 0},
                                           {-.6f, .2f}, {-.1f, .1f}, {-.2f, .6f}, {.1f, -.6f},
                                           {.2f, .4f},  {0, -.1f}};
inline constexpr AffineRange kPlain31[] = {{.2f, .2f},  {-.2f, .4f}, {.4f, -.1f}, {-.6f, .1f},
                                           {-.1f, .2f}, {.2f, -.6f}, {0, -.2f},   {-.6f, -.6f}};
inline constexpr AffineRange kWeighted3[] = {{.2f, .2f},  {.4f, -.2f}, {.3f, .5f}, {0, -.1f},
                                             {-.6f, .3f}, {0, .3f},    {.5f, .2f}, {.1f, -.6f},
                                             {0, .6f},    {.3f, 0},    {-.5f, 0},  {.7f, 0}};
inline constexpr AffineRange kWeighted15[] = {
    {.1f, .2f},   {.6f, .1f},  {-.2f, .4f},  {.3f, .1f},  {.2f, -.6f},  {-.6f, -.1f}, {1.1f, .3f},
    {0, .9f},     {.5f, .6f},  {-.1f, -.2f}, {.8f, .5f},  {-.1f, -.6f}, {-.1f, .2f},  {.2f, .7f},
    {-.6f, -.6f}, {-.6f, .2f}, {1.2f, 0},    {.3f, -.2f}, {.1f, 1.4f},  {.7f, -.1f}};
inline constexpr AffineRange kWeighted31[] = {
    {0, .2f}, {.2f, -.6f}, {-.1f, .4f}, {.3f, -.3f},  {-.6f, -.1f}, {-.1f, -.6f}, {-.6f, -.6f},
    {1, .1f}, {.1f, .9f},  {.5f, .6f},  {-.2f, -.1f}, {.1f, -.1f},  {-.6f, .2f},  {.6f, .2f}};

// Neighbours of the integers (sc, mn) to try.
struct AffineStep {
  float sc, mn;
};
inline constexpr AffineStep kSteps3[] = {{0, -1},  {0, 1},   {1, 0}, {-1, 0}, {1, 1},
                                         {-1, -1}, {-2, -4}, {4, 7}, {1, 2},  {-2, -3}};
inline constexpr AffineStep kSteps15[] = {{-1, 0}, {0, -1}, {-1, -1}, {1, 0}, {1, 1}, {0, 1},
                                          {0, -5}, {5, 1},  {0, -6},  {4, 7}, {7, 2}, {-3, -2}};
inline constexpr AffineStep kSteps31[] = {{1, 0}, {-1, 0}, {1, 1}, {-1, -1}, {0, -1}, {0, 1},
                                          {3, 4}, {0, 3},  {2, 2}, {4, 1},   {0, -3}, {2, 1},
                                          {4, 0}, {0, 2},  {5, 1}, {3, 1},   {0, -2}, {2, 3}};

struct AffinePlan {
  std::span<const AffineRange> ranges;
  std::span<const AffineStep> steps;
  int rounds;  // of ClimbAndRefit
};

inline AffinePlan PlanOf(int levels, bool plain, Effort effort) {
  AffinePlan plan{kWeighted3, kSteps3, 3};
  if (levels == 15) plan = {kWeighted15, kSteps15, 3};
  if (levels == 31) plan = {kWeighted31, kSteps31, 3};
  if (effort == Effort::kBest) return plan;
  if (effort == Effort::kFast) return {plan.ranges.first(4), plan.steps.first(2), 1};
  if (!plain) return {plan.ranges, plan.steps.first(8), 1};
  if (levels == 15) return {kPlain15, plan.steps.first(4), 1};
  if (levels == 31) return {kPlain31, plan.steps.first(5), 1};
  return {kPlain3, plan.steps.first(4), 1};
}

}  // namespace pennyweight
