// Disparity of one raw capture, in C++: embed BUNDLE LEFT.pgm RIGHT.pgm DISPARITY.pfm
//
// BUNDLE was exported for the sensor that wrote the files (16-bit PGM): edge-dp export ... --sensor pixel4
// Build: cmake -S runtime/native -B build -DEDGE_DP_SOURCE=$PWD/examples/embed_cpp/main.cpp -DEXECUTORCH=...; cmake --build build

#include <algorithm>
#include <fstream>
#include <iostream>

#include "edge_dp/model.hpp"

struct Pgm {
  int height = 0, width = 0;
  std::vector<uint16_t> values;

  explicit Pgm(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int most = 0;
    file >> magic >> width >> height >> most;
    if (!file || magic != "P5" || most < 256 || std::min(width, height) < 1 || std::max(width, height) > 1 << 15)
      throw edge_dp::Error(std::string(path) + ": expected a 16-bit PGM");
    std::vector<unsigned char> bytes(2 * std::size_t(width) * std::size_t(height));
    file.get();
    if (!file.read(reinterpret_cast<char*>(bytes.data()), std::streamsize(bytes.size())))
      throw edge_dp::Error(std::string(path) + ": truncated");
    for (std::size_t at = 0; at < bytes.size(); at += 2) values.push_back(uint16_t(bytes[at] << 8 | bytes[at + 1]));
  }
  edge_dp::Plane<uint16_t> plane() const { return {values.data(), height, width}; }
};

int main(int count, char** words) try {
  if (count != 5) throw edge_dp::Error("expected BUNDLE LEFT.pgm RIGHT.pgm DISPARITY.pfm");
  const Pgm left(words[2]), right(words[3]);
  edge_dp::Model model(words[1]);  // once; it verifies the bundle
  const auto disparity = model.predict_raw(left.plane(), right.plane()).disparity;  // for every capture
  std::ofstream out(words[4], std::ios::binary);
  out << "Pf\n" << disparity.width << " " << disparity.height << "\n-1.0\n";
  for (int y = disparity.height; y-- > 0;)  // PFM begins at the bottom
    out.write(reinterpret_cast<const char*>(disparity.row(y)), std::streamsize(sizeof(float)) * disparity.width);
  return out.flush() ? 0 : throw edge_dp::Error(std::string(words[4]) + ": cannot be written");
} catch (const std::exception& error) {
  std::cerr << "embed: " << error.what() << "\n";
  return 2;
}
