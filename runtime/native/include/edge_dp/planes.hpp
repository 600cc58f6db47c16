// Pictures of one channel: from a camera's numbers to linear light, and from one size to another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "edge_dp/error.hpp"
#include "edge_dp/manifest.hpp"

namespace edge_dp {

// A picture that belongs to someone else. `stride` counts values from one row to the next.
template <class Value>
struct Plane {
  const Value* data = nullptr;
  int height = 0, width = 0;
  std::ptrdiff_t stride = 0;

  Plane() = default;
  Plane(const Value* values, int rows, int columns, std::ptrdiff_t step = 0)
      : data(values), height(rows), width(columns), stride(step ? step : columns) {}
  const Value* row(int y) const { return data + y * stride; }
};

// A picture of one's own, whose memory is kept from call to call.
struct Picture {
  std::vector<float> values;
  int height = 0, width = 0;

  void resize(int rows, int columns) {
    height = rows;
    width = columns;
    values.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  }
  float* row(int y) { return values.data() + static_cast<std::ptrdiff_t>(y) * width; }
  Plane<float> plane() const { return {values.data(), height, width}; }
};

// Noise for a network's input of so many values, both views after each other, within half a step of zero: independent from value to
// value, the same for every capture. As edge_dp.preprocessing.dither, which says what it is good for.
inline std::vector<float> dither(std::size_t values, double step) {
  std::vector<float> noise(values);
  for (std::size_t at = 0; at < values; ++at) {
    std::uint32_t h = static_cast<std::uint32_t>(at);
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    h ^= h >> 16;
    noise[at] = static_cast<float>((((h >> 8) + 0.5) / 16777216.0 - 0.5) * step);
  }
  return noise;
}

// Linear light of a value in [0, 1] (IEC 61966-2-1).
inline float srgb_to_linear(float value) {
  return value <= 0.04045f ? value / 12.92f : std::pow((value + 0.055f) / 1.055f, 2.4f);
}

// Levels of a sensor -> linear light, in the sensor's orientation: clip((v - black) / (white - black), 0, ...).
template <class Value>
void to_light(const Plane<Value>& raw, const Sensor& sensor, Picture& light) {
  const float black = static_cast<float>(sensor.black_level), range = static_cast<float>(sensor.white_level - sensor.black_level);
  light.resize(raw.height, raw.width);
  for (int y = 0; y < raw.height; ++y) {
    const Value* from = raw.row(y);
    float* to = light.row(y);
    for (int x = 0; x < raw.width; ++x) {
      if (from[x] > sensor.white_level)
        throw Error("view: expected levels up to the white level " + std::to_string(sensor.white_level) + ", found " +
                    std::to_string(from[x]));
      to[x] = std::max(static_cast<float>(from[x]) - black, 0.0f) / range;
      if (sensor.srgb) to[x] = srgb_to_linear(to[x]);
    }
  }
}

// Replace every value by combine(value, number), with the number that a polynomial over the field has there.
template <class Combine>
void over_field(Picture& picture, const FieldPolynomial& polynomial, Combine combine) {
  const auto& rows = polynomial.coefficients;
  std::vector<double> in_x(rows[0].size());
  for (int y = 0; y < picture.height; ++y) {
    double v = (2.0 * y + 1) / picture.height - 1;
    for (std::size_t i = 0; i < in_x.size(); ++i) {
      in_x[i] = 0;
      for (std::size_t j = rows.size(); j-- > 0;) in_x[i] = in_x[i] * v + rows[j][i];
    }
    float* values = picture.row(y);
    for (int x = 0; x < picture.width; ++x) {
      double u = (2.0 * x + 1) / picture.width - 1, number = 0;
      for (std::size_t i = in_x.size(); i-- > 0;) number = number * u + in_x[i];
      values[x] = combine(values[x], static_cast<float>(number));
    }
  }
}

// Multiply by a gain over the field and clip to [0, 1].
inline void apply_gain(Picture& light, const FieldPolynomial& gain) {
  over_field(light, gain, [](float value, float factor) { return std::min(std::max(value * factor, 0.0f), 1.0f); });
}

// A quarter turn counter-clockwise, which takes the top of the picture to its left.
inline void turn(const Picture& picture, Picture& turned) {
  turned.resize(picture.width, picture.height);
  for (int y = 0; y < turned.height; ++y) {
    const float* from = picture.values.data() + (picture.width - 1 - y);
    float* to = turned.row(y);
    for (int x = 0; x < turned.width; ++x) to[x] = from[static_cast<std::ptrdiff_t>(x) * picture.width];
  }
}

// To a smaller size: each new pixel is the mean of the area it covers.
class AreaResize {
 public:
  void operator()(const Plane<float>& from, float* to, int height, int width) {
    columns_.fit(from.width, width);
    rows_.fit(from.height, height);
    line_.resize(static_cast<std::size_t>(width));
    for (int y = 0; y < height; ++y, to += width) {
      std::fill(to, to + width, 0.0f);
      for (const Share& share : rows_.of(y)) {
        squeeze(from.row(share.source), width);
        for (int x = 0; x < width; ++x) to[x] += share.weight * line_[static_cast<std::size_t>(x)];
      }
    }
  }

 private:
  struct Share {
    int source;
    float weight;
  };

  // What each new pixel takes of the old ones along one axis.
  struct Axis {
    struct Range {
      const Share *first, *last;
      const Share* begin() const { return first; }
      const Share* end() const { return last; }
    };
    int from = 0, to = 0;
    std::vector<Share> shares;
    std::vector<std::size_t> starts;

    Range of(int index) const {
      std::size_t at = static_cast<std::size_t>(index);
      return {shares.data() + starts[at], shares.data() + starts[at + 1]};
    }

    void fit(int size, int wanted) {
      if (size == from && wanted == to) return;
      from = size;
      to = wanted;
      shares.clear();
      starts.assign(1, 0);
      double scale = double(size) / wanted;
      for (int index = 0; index < wanted; ++index) {
        double low = index * scale, high = std::min(low + scale, double(size));
        for (int source = static_cast<int>(low); source < size && source < high; ++source) {
          double covered = std::min(high, source + 1.0) - std::max(low, double(source));
          if (covered > 1e-3) shares.push_back({source, static_cast<float>(covered / (high - low))});  // slivers as OpenCV's
        }
        starts.push_back(shares.size());
      }
    }
  };

  void squeeze(const float* from, int width) {
    for (int x = 0; x < width; ++x) {
      float sum = 0;
      for (const Share& share : columns_.of(x)) sum += share.weight * from[share.source];
      line_[static_cast<std::size_t>(x)] = sum;
    }
  }

  Axis columns_, rows_;
  std::vector<float> line_;
};

// To any size, bilinear between pixel centres; beyond the outer centres the edge goes on.
inline void resize_linear(const Plane<float>& from, Picture& to, float factor) {
  struct Place {
    int low, high;
    float share;
  };
  auto place = [](int index, double scale, int size) {
    float at = static_cast<float>((index + 0.5) * scale - 0.5);
    int low = static_cast<int>(std::floor(at));
    float share = at - static_cast<float>(low);
    if (low < 0) low = 0, share = 0;
    if (low >= size - 1) low = size - 1, share = 0;
    return Place{low, std::min(low + 1, size - 1), share};
  };
  std::vector<Place> columns;
  for (int x = 0; x < to.width; ++x) columns.push_back(place(x, double(from.width) / to.width, from.width));
  for (int y = 0; y < to.height; ++y) {
    Place rows = place(y, double(from.height) / to.height, from.height);
    const float *upper = from.row(rows.low), *lower = from.row(rows.high);
    float* out = to.row(y);
    for (int x = 0; x < to.width; ++x) {
      const Place& c = columns[static_cast<std::size_t>(x)];
      float above = upper[c.low] + (upper[c.high] - upper[c.low]) * c.share;
      float below = lower[c.low] + (lower[c.high] - lower[c.low]) * c.share;
      out[x] = (above + (below - above) * rows.share) * factor;
    }
  }
}

}  // namespace edge_dp
