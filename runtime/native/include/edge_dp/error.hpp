// The one exception of these headers: where, what was expected, what was found, what to do, in one line.
#pragma once

#include <stdexcept>
#include <string>

namespace edge_dp {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace edge_dp
