// A dual-pixel student in a C++ app: opens a bundle, takes the two planes of a camera, gives disparity and confidence.
//
//   edge_dp::Model model("bundle");                                  // checks manifest and artifact
//   auto maps = model.predict_raw<uint16_t>(left, right);            // as the bundle's sensor writes them
//   use(maps.disparity.data, maps.disparity.height, maps.disparity.width);
//
// predict() and predict_raw() compute what edge_dp.Predictor.predict computes in Python, the latter after edge_dp.data.read_pair.
// Needs C++17 and ExecuTorch's libraries; no exceptions but edge_dp::Error (and bad_alloc).
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "edge_dp/manifest.hpp"
#include "edge_dp/planes.hpp"
#include "edge_dp/program.hpp"
#include "edge_dp/sha256.hpp"

namespace edge_dp {

// Maps that belong to the model, until its next call.
//
// disparity: px of its own width, left(x) = right(x + d), positive farther than the focus plane.
// confidence: in [0, 1]; the manifest says which error it promises.
struct Prediction {
  Plane<float> disparity, confidence;
};

enum class Size { capture, network };

// Not thread-safe: one object serves one thread at a time. All memory is kept from call to call.
class Model {
 public:
  // Throws Error where the manifest is of a newer schema, contradicts itself or the artifact, or the artifact is damaged.
  explicit Model(const std::string& bundle, const std::string& artifact = "executorch-int8", int threads = 1)
      : manifest_(Manifest::read(bundle, artifact)), program_(verified(manifest_), threads) {
    const Shape input{1, 2, manifest_.input_height, manifest_.input_width};
    const Shape output{1, 1, manifest_.output_height, manifest_.output_width};
    if (program_.inputs() != std::vector<Shape>{input})
      throw unlike_manifest("one input", input);
    for (std::size_t index : {manifest_.disparity_output, manifest_.confidence_output})
      if (program_.outputs().size() != manifest_.outputs || program_.outputs()[index] != output)
        throw unlike_manifest("an output", output);
    views_.resize(count_of(input));
    if (manifest_.dither > 0) dither_ = dither(views_.size(), manifest_.dither);
  }

  const Manifest& manifest() const { return manifest_; }

  // Views in linear light, [0, 1], left and right of one capture, dual-pixel axis along x.
  //
  // At Size::capture the maps have the size of the views; at Size::network that of the network's output, with disparity in px
  // of the network's input. Throws Error where the views differ in size, are smaller than the network's input, or are black.
  Prediction predict(const Plane<float>& left, const Plane<float>& right, Size size = Size::capture) {
    network_input(left, right);
    program_.set_inputs({views_.data()});
    program_.execute();
    const Plane<float> disparity = output(manifest_.disparity_output), confidence = output(manifest_.confidence_output);
    clipped_.resize(confidence.height, confidence.width);
    for (std::size_t at = 0; at < clipped_.values.size(); ++at)
      clipped_.values[at] = std::min(std::max(confidence.data[at], 0.0f), 1.0f);
    if (size == Size::network) return {disparity, clipped_.plane()};
    disparity_.resize(left.height, left.width);
    confidence_.resize(left.height, left.width);
    // Disparity lies along x, so only the width's factor counts.
    resize_linear(disparity, disparity_, float(left.width) / float(manifest_.input_width));
    resize_linear(clipped_.plane(), confidence_, 1.0f);
    return {disparity_.plane(), confidence_.plane()};
  }

  // Planes as the sensor that the bundle names writes them: its levels, its shading and its orientation. Where its dual-pixel
  // axis is y the maps are turned as the views are, a quarter counter-clockwise. Value is uint8_t or uint16_t, as the profile
  // says.
  template <class Value>
  Prediction predict_raw(const Plane<Value>& left, const Plane<Value>& right, Size size = Size::capture) {
    if (!manifest_.sensor)
      throw Error("bundle: expected one made for a sensor, found no levels in it. Export it with --sensor, or call predict()");
    const Sensor& sensor = *manifest_.sensor;
    if (sensor.bytes_per_value != int(sizeof(Value)))
      throw Error("views: expected " + std::to_string(8 * sensor.bytes_per_value) + " bits per value, found " +
                  std::to_string(8 * sizeof(Value)));
    check_alike(left, right);
    to_light(sensor.swap_views ? right : left, sensor, left_);
    to_light(sensor.swap_views ? left : right, sensor, right_);
    if (sensor.right_gain) {
      if (right.width > sensor.right_gain->field_width || right.height > sensor.right_gain->field_height)
        throw Error("views: expected at most " + std::to_string(sensor.right_gain->field_width) + "x" +
                    std::to_string(sensor.right_gain->field_height) + " px, where right_gain is known");
      apply_gain(right_, *sensor.right_gain);
    }
    for (Picture* picture : {&left_, &right_}) {
      if (!sensor.turned) break;
      turn(*picture, turned_);
      std::swap(*picture, turned_);
    }
    return predict(left_.plane(), right_.plane(), size);
  }

  // A disparity of predict() or predict_raw(), of views that show the sensor's whole field, as a lens equally strong all over that
  // field would show it: affine in inverse depth. The same again where the bundle's sensor does not say how its strength varies, or
  // the artifact has corrected it. It belongs to the model, until the next call.
  Plane<float> corrected(const Plane<float>& disparity) {
    corrected_.resize(disparity.height, disparity.width);
    for (int y = 0; y < disparity.height; ++y) std::copy_n(disparity.row(y), disparity.width, corrected_.row(y));
    if (manifest_.field_corrected || !manifest_.sensor || !manifest_.sensor->alpha_field) return corrected_.plane();
    auto number = [](float, float strength) { return strength; };
    const bool is_turned = manifest_.sensor->turned;
    if (is_turned) strength_.resize(disparity.width, disparity.height);
    else strength_.resize(disparity.height, disparity.width);
    over_field(strength_, *manifest_.sensor->alpha_field, number);
    if (is_turned) {
      turn(strength_, turned_);
      std::swap(strength_, turned_);
    }
    for (std::size_t at = 0; at < corrected_.values.size(); ++at) corrected_.values[at] /= strength_.values[at];
    return corrected_.plane();
  }

  // What the network was given last: (1, 2, height, width).
  const std::vector<float>& last_input() const { return views_; }

 private:
  static const std::string& verified(const Manifest& manifest) {
    const std::string &path = manifest.artifact_path, found = sha256(read_file(path, std::size_t(1) << 31));
    if (found != manifest.artifact_sha256)
      throw Error(path + ": sha256 " + found.substr(0, 12) + " differs from " + manifest.artifact_sha256.substr(0, 12) +
                  " in the manifest: the file was truncated or edited. Export the bundle again.");
    return path;
  }

  Error unlike_manifest(const std::string& tensor, const Shape& shape) const {
    return Error(manifest_.artifact_path + ": expected " + tensor + " of shape " + words_of(shape) +
                 " as in the manifest, found another. Export the bundle again.");
  }

  template <class Value>
  void check_alike(const Plane<Value>& left, const Plane<Value>& right) const {
    if (!left.data || !right.data || left.height != right.height || left.width != right.width)
      throw Error("views: expected two of one size, found " + std::to_string(left.width) + "x" + std::to_string(left.height) +
                  " and " + std::to_string(right.width) + "x" + std::to_string(right.height));
  }

  // Both views at the network's size, times one gain that brings their common mean to its fixed value, as light or its root, dithered.
  void network_input(const Plane<float>& left, const Plane<float>& right) {
    const int height = manifest_.input_height, width = manifest_.input_width;
    check_alike(left, right);
    if (left.height < height || left.width < width)
      throw Error("views: expected at least " + std::to_string(width) + "x" + std::to_string(height) +
                  " px (width x height), found " + std::to_string(left.width) + "x" + std::to_string(left.height) +
                  ". Export the bundle at a smaller size.");
    resize_area_(left, views_.data(), height, width);
    resize_area_(right, views_.data() + views_.size() / 2, height, width);
    if (manifest_.exposure) expose(*manifest_.exposure);
    for (std::size_t at = 0; at < dither_.size(); ++at) views_[at] += dither_[at];
  }

  void expose(const Exposure& exposure) {
    double sum = 0;
    for (float value : views_) sum += value;
    double mean = sum / double(views_.size());
    if (!(mean > 0)) throw Error("views: expected a mean above the black level, found none: both are black");
    double gain = std::min(exposure.target_mean / mean, exposure.max_gain);
    for (float& value : views_) value = float(std::min(std::max(value * gain, 0.0), 1.0));
    if (exposure.square_root)
      for (float& value : views_) value = std::sqrt(value);
  }

  Plane<float> output(std::size_t index) const {
    return {program_.output(index), manifest_.output_height, manifest_.output_width};
  }

  Manifest manifest_;
  Program program_;
  AreaResize resize_area_;
  std::vector<float> views_, dither_;
  Picture left_, right_, turned_, clipped_, disparity_, confidence_, corrected_, strength_;
};

}  // namespace edge_dp
