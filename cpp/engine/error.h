// Every failure the engine reports. Nothing here prints, exits or aborts: the caller decides.
#pragma once

#include <stdexcept>
#include <string>

namespace kserve {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The architecture or a tensor of the model does not fit.
class ModelError : public Error {
 public:
  using Error::Error;
};

// An option (beam size, instruction set, threads, ...) is out of its range.
class OptionError : public Error {
 public:
  using Error::Error;
};

// A source sentence cannot be translated: empty, too long, or with an id outside the vocabulary.
class InputError : public Error {
 public:
  using Error::Error;
};

// The caller cancelled the call.
class CancelledError : public Error {
 public:
  using Error::Error;
};

// The model computed something that is not a number.
class NumericError : public Error {
 public:
  using Error::Error;
};

}  // namespace kserve
