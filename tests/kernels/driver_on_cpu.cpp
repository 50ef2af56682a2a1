// A CUDA driver library (libcuda.so.1) whose one device is this processor, for the real `cuda.bindings` to call.
//
// It does what the driver's documentation says of the functions that we use, refuses what the driver refuses, and runs a
// kernel as its source, compiled for this processor. Kernels are done when a launch returns.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    COOPERATIVE_LAUNCH_TOO_LARGE = 720,
    NOT_SUPPORTED = 801,
};

constexpr unsigned MOST_BLOCKS_IN_Y = 65535, MOST_THREADS = 1024;

using Run = int (*)(unsigned, unsigned, unsigned, bool, bool, const void*, const void*);

struct Function {
    Run run;
};

struct Module {
    std::string image;
    void* library;
};

struct Launch {
    unsigned grid_x, grid_y, threads;
    int cooperative, overlapping;
    void* stream;
};

// CUlaunchAttribute, CUlaunchConfig and CUlaunchAttributeID of cuda.h.
struct Attribute {
    int id;
    alignas(8) int value;
    char rest[60];
};

struct Config {
    unsigned grid_x, grid_y, grid_z, x, y, z, shared;
    void* stream;
    Attribute* attributes;
    unsigned count;
};

enum AttributeId { COOPERATIVE = 2, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

bool initialized = false;
int context;  // its address is the handle
thread_local std::vector<void*> current;
int multiprocessors = 1, blocks_per_multiprocessor = 1;
std::vector<Module> kernels;  // what an image's kernels are on this processor
std::vector<Launch> launches;

/// What an environment variable orders: the named function is missing, or fails with a status.
int ordered(const char* variable, const std::string& name) {
    const char* order = std::getenv(variable);
    if (order == nullptr || std::strncmp(order, name.c_str(), name.size()) != 0) return 0;
    if (order[name.size()] == '\0') return -1;
    return order[name.size()] == '=' ? std::atoi(order + name.size() + 1) : 0;
}

Status entered(const char* name, bool needs_context) {
    if (const int status = ordered("DRIVER_FAILS", name)) return static_cast<Status>(status);
    if (!initialized) return NOT_INITIALIZED;
    return needs_context && current.empty() ? INVALID_CONTEXT : SUCCESS;
}

Status launch(Function* function, Launch shape, unsigned grid_z, unsigned y, unsigned z, unsigned shared, void** arguments) {
    if (function == nullptr) return INVALID_HANDLE;
    const bool fits = shape.grid_x > 0 && shape.grid_y > 0 && shape.grid_y <= MOST_BLOCKS_IN_Y && shape.threads > 0 &&
                      shape.threads <= MOST_THREADS && grid_z == 1 && y == 1 && z == 1 && shared == 0;
    if (!fits || arguments == nullptr) return INVALID_VALUE;
    const unsigned held = multiprocessors * blocks_per_multiprocessor;
    if (shape.cooperative && shape.grid_x * shape.grid_y > held) return COOPERATIVE_LAUNCH_TOO_LARGE;
    launches.push_back(shape);
    const bool done = function->run(
        shape.grid_x, shape.grid_y, shape.threads, shape.cooperative, false, arguments[0], arguments[1]) == 0;
    return done ? SUCCESS : LAUNCH_FAILED;
}

}  // namespace

extern "C" {

// What the tests set and ask.

void play_device(int processors, int blocks) {
    multiprocessors = processors;
    blocks_per_multiprocessor = blocks;
}

int play_kernels(const char* image, size_t size, const char* library) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    kernels.push_back({std::string(image, size), handle});
    return handle != nullptr;
}

int contexts_left() { return static_cast<int>(current.size()); }

size_t launches_done() { return launches.size(); }

Launch last_launch() { return launches.back(); }

// The driver's interface.

Status cuInit(unsigned flags) {
    if (const int status = ordered("DRIVER_FAILS", "cuInit")) return static_cast<Status>(status);
    initialized = flags == 0;
    return initialized ? SUCCESS : INVALID_VALUE;
}

Status cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}

Status cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    const Status status = entered("cuDeviceGet", false);
    return status == SUCCESS && ordinal != 0 ? INVALID_DEVICE : status;
}

Status cuDevicePrimaryCtxRetain(void** handle, int device) {
    *handle = &context;
    const Status status = entered("cuDevicePrimaryCtxRetain", false);
    return status == SUCCESS && device != 0 ? INVALID_DEVICE : status;
}

Status cuCtxPushCurrent_v2(void* handle) {
    if (const Status status = entered("cuCtxPushCurrent", false)) return status;
    if (handle != &context) return INVALID_CONTEXT;
    current.push_back(handle);
    return SUCCESS;
}

Status cuCtxGetCurrent(void** handle) {
    *handle = current.empty() ? nullptr : current.back();
    return entered("cuCtxGetCurrent", false);
}

Status cuCtxPopCurrent_v2(void** handle) {
    if (const Status status = entered("cuCtxPopCurrent", true)) return status;
    *handle = current.back();
    current.pop_back();
    return SUCCESS;
}

Status cuModuleLoadData(void** module, const void* image) {
    if (const Status status = entered("cuModuleLoadData", true)) return status;
    for (Module& known : kernels)
        if (std::memcmp(image, known.image.data(), known.image.size()) == 0) {
            *module = new Module(known);
            return SUCCESS;
        }
    return INVALID_IMAGE;
}

Status cuModuleGetFunction(void** function, Module* module, const char* name) {
    if (const Status status = entered("cuModuleGetFunction", true)) return status;
    const std::string section = std::string(".text.") + name + '\0';
    void* run = dlsym(module->library, (std::string("run_") + name).c_str());
    if (module->image.find(section) == std::string::npos || run == nullptr) return NOT_FOUND;
    *function = new Function{reinterpret_cast<Run>(run)};
    return SUCCESS;
}

Status cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int threads, size_t shared) {
    if (const Status status = entered("cuOccupancyMaxActiveBlocksPerMultiprocessor", true)) return status;
    if (function == nullptr || threads <= 0 || shared != 0) return INVALID_VALUE;
    *blocks = blocks_per_multiprocessor;
    return SUCCESS;
}

Status cuLaunchKernelEx(const Config* config, Function* function, void** arguments, void** extra) {
    if (const Status status = entered("cuLaunchKernelEx", true)) return status;
    if (config == nullptr || extra != nullptr) return INVALID_VALUE;
    Launch shape{config->grid_x, config->grid_y, config->x, 0, 0, config->stream};
    for (unsigned k = 0; k < config->count; ++k) {
        const Attribute& attribute = config->attributes[k];
        if (attribute.id == COOPERATIVE) {
            shape.cooperative = attribute.value;
        } else if (attribute.id == PROGRAMMATIC_STREAM_SERIALIZATION) {
            shape.overlapping = attribute.value;
        } else {
            return INVALID_VALUE;
        }
    }
    if (shape.overlapping && std::getenv("DRIVER_REFUSES_OVERLAP")) return NOT_SUPPORTED;
    return launch(function, shape, config->grid_z, config->y, config->z, config->shared, arguments);
}

Status cuGetProcAddress_v2(const char* name, void** address, int, unsigned long long, int* found) {
    void* self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
    *address = dlsym(self, (std::string(name) + "_v2").c_str());
    if (*address == nullptr) *address = dlsym(self, name);
    if (ordered("DRIVER_LACKS", name)) *address = nullptr;
    if (found != nullptr) *found = *address == nullptr;
    return *address == nullptr ? NOT_FOUND : SUCCESS;
}

Status cuGetProcAddress(const char* name, void** address, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, address, version, flags, nullptr);
}

}  // extern "C"
