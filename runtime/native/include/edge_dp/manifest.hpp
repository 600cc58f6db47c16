// A bundle's manifest.json, as far as a camera app needs it: the tensors, what to do before inference, one artifact with its
// checksum. Everything is checked on reading; a manifest of a newer schema is refused.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "edge_dp/json.hpp"

namespace edge_dp {

// A number over the field of view: sum over j, i of coefficients[j][i] * y^j * x^i, with x and y running from -1 to 1 over the
// picture as the sensor's files hold it, at pixel centres.
struct FieldPolynomial {
  std::vector<std::vector<double>> coefficients;
  int field_width = 0, field_height = 0;  // of the part of the sensor it is known on
};

struct Exposure {
  double target_mean = 0.2, max_gain = 200.0;
  bool square_root = false;  // the network is told the square root of the light
};

// How the sensor's own files are to be read.
struct Sensor {
  double black_level = 0, white_level = 0;
  bool srgb = false;         // gamma-encoded
  bool turned = false;       // the dual-pixel axis is y: views are turned a quarter counter-clockwise
  bool swap_views = false;   // what the sensor calls left is the right view
  int bytes_per_value = 2;
  std::optional<FieldPolynomial> right_gain;
  std::optional<FieldPolynomial> alpha_field;  // disparity that one defocus shows, relative to its mean; none where unknown
};

struct Manifest {
  static constexpr int schema = 3;

  int input_height = 0, input_width = 0;    // of each view, as the network takes it
  int output_height = 0, output_width = 0;  // of each map, as the network gives it
  std::size_t disparity_output = 0, confidence_output = 0, outputs = 0;
  std::optional<Exposure> exposure;
  double dither = 0;             // step of the noise that is added to the input
  std::optional<Sensor> sensor;  // none where the bundle was exported for no sensor
  bool field_corrected = false;  // the artifact corrects its disparity for the sensor's field itself
  std::string artifact_path, artifact_sha256;

  // Throws Error naming the file and the field.
  static Manifest read(const std::string& bundle, const std::string& artifact);
};

// The bytes of a file of at most `most` bytes; Error where it is missing or larger.
inline std::string read_file(const std::string& path, std::size_t most) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw Error(path + ": expected a file of the bundle, found: " + std::strerror(errno));
  std::string bytes;
  char part[1 << 16];
  for (std::size_t got; bytes.size() <= most && (got = std::fread(part, 1, sizeof part, file)) > 0;) bytes.append(part, got);
  bool failed = std::ferror(file) != 0;
  std::fclose(file);
  if (failed || bytes.size() > most)
    throw Error(path + ": expected a readable file of at most " + std::to_string(most) + " bytes, found another");
  return bytes;
}

namespace detail {

inline std::vector<int> shape_of(const Json& tensor) {
  const Json& sizes = tensor.at("shape");
  if (sizes.items().size() > 8) sizes.fail("at most 8 sizes");
  std::vector<int> shape;
  std::int64_t values = 1;
  for (const Json& size : sizes.items()) {
    shape.push_back(static_cast<int>(size.integer(1, 0x7FFFFFFF)));
    if ((values *= shape.back()) > 0x7FFFFFFF) sizes.fail("at most 2147483647 values");
  }
  return shape;
}

inline void require_text(const Json& json, const std::string& wanted) {
  if (json.text() != wanted) json.fail("'" + wanted + "', found '" + json.text().substr(0, 60) + "'");
}

inline double positive(const Json& json) {
  if (!(json.number() > 0)) json.fail("a number above 0");
  return json.number();
}

// (1, 1, h, w) of the output called `name`, and its place among the outputs.
inline std::size_t map_output(const Json& outputs, const std::string& name, int& height, int& width) {
  for (std::size_t index = 0; index < outputs.items().size(); ++index) {
    const Json& tensor = outputs.items()[index];
    if (tensor.at("name").text() != name) continue;
    std::vector<int> shape = shape_of(tensor);
    bool fits = shape.size() == 4 && shape[0] == 1 && shape[1] == 1 && (height == 0 || (shape[2] == height && shape[3] == width));
    if (!fits) tensor.at("shape").fail("1, 1, height, width, alike for disparity and confidence");
    height = shape[2];
    width = shape[3];
    return index;
  }
  outputs.fail("an output called '" + name + "'");
}

inline FieldPolynomial field_polynomial(const Json& json) {
  FieldPolynomial polynomial;
  const Json &rows = json.at("coefficients"), &field = json.at("field_px");
  for (const Json& row : rows.items()) {
    polynomial.coefficients.emplace_back();
    for (const Json& number : row.items()) polynomial.coefficients.back().push_back(number.number());
    std::size_t length = polynomial.coefficients.back().size();
    if (length == 0 || length != polynomial.coefficients[0].size()) rows.fail("rows of equal length");
  }
  if (rows.items().empty() || rows.items().size() > 64) rows.fail("1 to 64 rows");
  if (field.items().size() != 2) field.fail("width and height");
  polynomial.field_width = static_cast<int>(field.items()[0].integer(1, 1 << 24));
  polynomial.field_height = static_cast<int>(field.items()[1].integer(1, 1 << 24));
  return polynomial;
}

inline Sensor sensor_of(const Json& profile, const Json& preprocessing) {
  Sensor sensor;
  sensor.black_level = preprocessing.at("black_level").number();
  sensor.white_level = preprocessing.at("white_level").number();
  if (!(sensor.white_level > sensor.black_level)) preprocessing.at("white_level").fail("a level above the black level");
  if (preprocessing.has("right_gain")) sensor.right_gain = field_polynomial(preprocessing.at("right_gain"));
  const Json &transfer = profile.at("transfer"), &axis = profile.at("dp_axis"), &dtype = profile.at("dtype");
  sensor.srgb = transfer.text() == "srgb";
  if (!sensor.srgb) require_text(transfer, "linear");
  sensor.turned = axis.text() == "y";
  if (!sensor.turned) require_text(axis, "x");
  sensor.bytes_per_value = dtype.text() == "uint8" ? 1 : 2;
  if (sensor.bytes_per_value == 2) require_text(dtype, "uint16");
  sensor.swap_views = profile.at("swap_views").boolean();
  if (profile.has("alpha_field")) sensor.alpha_field = field_polynomial(profile.at("alpha_field"));
  return sensor;
}

inline void check_path(const Json& json) {
  const std::string& path = json.text();
  std::string framed = "/" + path + "/";
  bool inside = !path.empty() && path[0] != '/' && framed.find("/../") == std::string::npos;
  inside = inside && path.find('\\') == std::string::npos;
  for (char c : path) inside = inside && static_cast<unsigned char>(c) >= 0x20;
  if (!inside) json.fail("a path that stays inside the bundle");
}

}  // namespace detail

inline Manifest Manifest::read(const std::string& bundle, const std::string& artifact) {
  const std::string path = bundle + "/manifest.json";
  const Json json = Json::parse(read_file(path, std::size_t(1) << 22), path);
  std::int64_t found = json.at("schema").integer(1, 1 << 30);
  if (found > schema)
    throw Error(path + ": schema " + std::to_string(found) + " is newer than this app reads (" + std::to_string(schema) +
                "); update the app");

  Manifest manifest;
  const Json &inputs = json.at("inputs"), &outputs = json.at("outputs");
  if (inputs.items().size() != 1) inputs.fail("one input, the views of a dual-pixel student");
  const Json& views = inputs.items()[0];
  detail::require_text(views.at("name"), "views");
  std::vector<int> shape = detail::shape_of(views);
  if (shape.size() != 4 || shape[0] != 1 || shape[1] != 2) views.at("shape").fail("1, 2, height, width");
  manifest.input_height = shape[2];
  manifest.input_width = shape[3];
  manifest.disparity_output = detail::map_output(outputs, "disparity", manifest.output_height, manifest.output_width);
  manifest.confidence_output = detail::map_output(outputs, "confidence", manifest.output_height, manifest.output_width);
  manifest.outputs = outputs.items().size();

  const Json& preprocessing = json.at("preprocessing");
  detail::require_text(preprocessing.at("axis"), "x");
  const Json& order = preprocessing.at("views");
  if (order.items().size() != 2) order.fail("left and right");
  detail::require_text(order.items()[0], "left");
  detail::require_text(order.items()[1], "right");
  if (preprocessing.has("exposure")) {
    const Json& exposure = preprocessing.at("exposure");
    manifest.exposure = Exposure{detail::positive(exposure.at("target_mean")), detail::positive(exposure.at("max_gain"))};
    if (exposure.has("transfer")) {
      const Json& transfer = exposure.at("transfer");
      manifest.exposure->square_root = transfer.text() == "square_root";
      if (!manifest.exposure->square_root) detail::require_text(transfer, "linear");
    }
  }
  if (preprocessing.has("dither")) manifest.dither = detail::positive(preprocessing.at("dither"));
  if (json.has("sensor")) manifest.sensor = detail::sensor_of(json.at("sensor"), preprocessing);

  if (json.has("field_corrected")) manifest.field_corrected = json.at("field_corrected").boolean();

  std::string names;
  for (const Json& entry : json.at("artifacts").items()) {
    const std::string& name = entry.at("name").text();
    names += (names.empty() ? "" : ", ") + name;
    if (name != artifact) continue;
    detail::require_text(entry.at("format"), "executorch");
    const Json &file = entry.at("path"), &files = entry.at("files");
    detail::check_path(file);
    manifest.artifact_path = bundle + "/" + file.text();
    manifest.artifact_sha256 = files.at(file.text()).text();
    return manifest;
  }
  throw Error(path + ": artifacts: expected one called '" + artifact + "', found " + (names.empty() ? "none" : names));
}

}  // namespace edge_dp
