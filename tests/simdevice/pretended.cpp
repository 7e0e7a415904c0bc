// A pretended CUDA device: fills the dispatch key CUDA, which is vacant in a CPU build of torch, with memory of the host.
//
// Tensors really have the device type cuda. Every op that has a kernel for the CPU is registered for CUDA as a boxed function
// that lends it the same memory as CPU tensors, runs it there and hands back what it gives as tensors of the device. So numbers
// are the CPU's, views stay views, and what CUDA refuses can be refused: tensors of two devices in one op, a matmul of
// integers, topk of booleans. Each op is one launch; those that make the host wait are synchronisations too.
#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::IValue;
using c10::Storage;
using c10::StorageImpl;

// ------------------------------------------------------------------------------------------------ devices and their memory

static constexpr int kMost = 16;
static int g_devices = 1;
static bool g_forked = false;  // a child of a process that has used CUDA
static thread_local DeviceIndex t_current = 0;
static std::atomic<int64_t> g_live[kMost], g_peak[kMost];

static void check_ordinal(DeviceIndex index) {
  TORCH_CHECK(!g_forked, "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method");
  TORCH_CHECK(index >= 0 && index < g_devices, "CUDA error: invalid device ordinal");
}

static void add_bytes(int device, int64_t bytes) {
  int64_t now = (g_live[device] += bytes), peak = g_peak[device].load();
  while (now > peak && !g_peak[device].compare_exchange_weak(peak, now)) {}
}

// What owns a piece of device memory: memory of the host, got for it or taken over from an op's result.
struct Owner {
  c10::DataPtr memory;
  Storage taken;
  int64_t bytes;
  int device;
};
static void free_owner(void* owner) {
  auto* it = static_cast<Owner*>(owner);
  g_live[it->device] -= it->bytes;
  delete it;
}
static c10::DataPtr owned(void* data, Owner* owner) {
  add_bytes(owner->device, owner->bytes);
  return {data, owner, &free_owner, Device(DeviceType::CUDA, owner->device)};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    check_ordinal(t_current);
    auto memory = c10::GetCPUAllocator()->allocate(bytes);
    void* data = memory.get();
    return owned(data, new Owner{std::move(memory), Storage(), static_cast<int64_t>(bytes), t_current});
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_owner; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
static DeviceAllocator g_allocator;

// Memory of the host that the device can read by itself, so that a copy from it makes nobody wait.
static std::mutex g_pinned_lock;
static std::unordered_set<const void*> g_pinned;
struct PinnedAllocator final : c10::Allocator {
  struct Block { c10::DataPtr memory; };
  static void release(void* block) {
    auto* it = static_cast<Block*>(block);
    { std::lock_guard<std::mutex> lock(g_pinned_lock); g_pinned.erase(it->memory.get()); }
    delete it;
  }
  c10::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{c10::GetCPUAllocator()->allocate(bytes)};
    void* data = block->memory.get();
    { std::lock_guard<std::mutex> lock(g_pinned_lock); g_pinned.insert(data); }
    return {data, block, &release, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
};
static PinnedAllocator g_pinned_allocator;
static bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(g_pinned_lock);
  return g_pinned.count(data) > 0;
}

struct DeviceGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device getDevice() const override { return {DeviceType::CUDA, t_current}; }
  void setDevice(Device device) const override { if (device.index() >= 0) { check_ordinal(device.index()); t_current = device.index(); } }
  void uncheckedSetDevice(Device device) const noexcept override { if (device.index() >= 0) t_current = device.index(); }
  Device exchangeDevice(Device device) const override { auto before = getDevice(); setDevice(device); return before; }
  c10::Stream getStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(g_devices); }
};
C10_REGISTER_GUARD_IMPL(CUDA, DeviceGuard)

namespace at {
struct PretendedHooks : CUDAHooksInterface {
  explicit PretendedHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(g_devices); }
  int getNumGPUs() const override { return g_devices; }
  DeviceIndex current_device() const override { return t_current; }
  DeviceIndex getCurrentDevice() const override { return t_current; }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { auto before = t_current; check_ordinal(index); t_current = index; return before; }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchangeDevice(index); }
  void setCurrentDevice(DeviceIndex index) const override { check_ordinal(index); t_current = index; }
  Allocator* getCUDADeviceAllocator() const override { return &g_allocator; }
  Allocator* getPinnedMemoryAllocator() const override { return &g_pinned_allocator; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  Device getDeviceFromPtr(void*) const override { return {DeviceType::CUDA, t_current}; }
  void deviceSynchronize(DeviceIndex) const override {}
};
C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", PretendedHooks)
}  // namespace at

// ------------------------------------------------------------------------------------------------ what is counted

enum Kind : int { kNothing = 0, kLaunch = 1, kWait = 2, kAtomic = 3 };  // a wait is a launch too; an atomic is told beside it
using Listener = void (*)(int kind, const char* op);
static Listener g_listener = nullptr;
static void tell(Kind kind, const std::string& op) {
  if (g_listener && kind != kNothing) g_listener(kind, op.c_str());
}

using Names = std::unordered_set<std::string>;
// Their result's size, or a value, is read by the host.
static const Names kWaits = {
    "_local_scalar_dense", "nonzero", "nonzero.out", "masked_select", "masked_select.out", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "bincount", "equal", "histc", "_linalg_eigh", "_linalg_eigh.eigenvalues",
    "_linalg_eig", "linalg_eig", "_linalg_svd", "_linalg_svd.U", "linalg_lstsq", "_linalg_check_errors", "_linalg_det",
    "_linalg_slogdet", "_linalg_solve_ex"};
// No kernel runs: they look at the same memory in another way, or get some.
static const Names kViews = {
    "as_strided", "as_strided_", "view", "view.dtype", "_reshape_alias", "alias", "detach", "unfold", "view_as_real",
    "view_as_complex", "_conj", "real", "set_", "set_.source_Storage", "set_.source_Storage_storage_offset", "set_.source_Tensor",
    "resize_", "resize", "is_set_to", "is_same_size", "_fused_sdp_choice", "empty.memory_format", "empty_strided",
    "_has_same_storage_numel", "squeeze", "squeeze.dim", "squeeze.dims", "unsqueeze", "permute", "transpose.int", "t", "expand",
    "select.int", "slice.Tensor", "diagonal", "split.Tensor", "split_with_sizes", "unbind.int", "is_pinned", "record_stream"};
static const Names kIndexing = {
    "index.Tensor", "index.Tensor_out", "index_put_", "index_put", "_index_put_impl_", "index_put.out", "_unsafe_index.Tensor",
    "_unsafe_index_put"};
static const Names kMatmuls = {"mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot", "linear", "mm.out", "bmm.out",
    "addmm.out", "baddbmm.out", "addbmm", "addmm_", "baddbmm_", "mv.out", "addmv.out"};
// Ops that are no pointwise ones and take a number of the CPU all the same.
static const Names kTakesNumber = {"fill_.Tensor", "masked_fill.Tensor", "masked_fill_.Tensor", "index_fill_.int_Tensor"};
// Composite on a CPU, or free to choose a library of the CPU's; a card runs them as one.
static const Names kWhole = {"convolution", "native_layer_norm", "_fused_rms_norm", "isin.Tensor_Tensor"};
static const Names kByHand = {"empty.memory_format", "empty_strided", "copy_", "_copy_from", "scaled_dot_product_attention"};

static std::string name_of(const c10::FunctionSchema& schema) {
  std::string name = schema.name().substr(6);  // behind aten::
  return schema.overload_name().empty() ? name : name + "." + schema.overload_name();
}
static bool on_card(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == DeviceType::CUDA; }

// ------------------------------------------------------------------------------------------------ lending memory to the CPU

static Storage card_storage(Storage host, DeviceIndex device) {
  auto bytes = static_cast<int64_t>(host.nbytes());
  void* data = host.mutable_data();
  auto pointer = owned(data, new Owner{c10::DataPtr(), std::move(host), bytes, device});
  return Storage(c10::make_intrusive<StorageImpl>(StorageImpl::use_byte_size_t(), bytes, std::move(pointer), &g_allocator, true));
}

static void same_geometry(const Tensor& to, const Tensor& from) {
  auto* impl = to.unsafeGetTensorImpl();
  impl->set_storage_offset(from.storage_offset());
  impl->set_sizes_and_strides(from.sizes(), from.strides());
  if (from.is_conj()) to._set_conj(true);
  if (from.is_neg()) to._set_neg(true);
}

class Loan {
 public:
  // The same memory as a tensor of the CPU.
  Tensor lend(const Tensor& tensor) {
    auto lent = at::detail::make_tensor<c10::TensorImpl>(
        Storage(lend(tensor.storage())), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    same_geometry(lent, tensor);
    tensors_.emplace_back(tensor, lent);
    return lent;
  }
  Storage lend(const Storage& storage) {
    for (auto& [card, host] : storages_) if (card.unsafeGetStorageImpl() == storage.unsafeGetStorageImpl()) return host;
    auto* keeper = new Storage(storage);
    c10::DataPtr pointer(keeper->mutable_data(), keeper, [](void* it) { delete static_cast<Storage*>(it); }, Device(DeviceType::CPU));
    Storage host(c10::make_intrusive<StorageImpl>(
        StorageImpl::use_byte_size_t(), storage.nbytes(), std::move(pointer), c10::GetCPUAllocator(), true));
    storages_.emplace_back(storage, host);
    return host;
  }
  // What an op gave, as a tensor of the device: one that it was given, a view of one, or a new one.
  Tensor take(const Tensor& result, DeviceIndex device) {
    if (!result.defined() || result.device().type() != DeviceType::CPU) return result;
    for (auto& [card, host] : tensors_) if (host.unsafeGetTensorImpl() == result.unsafeGetTensorImpl()) return card;
    auto* own = result.storage().unsafeGetStorageImpl();
    for (auto& [card, host] : storages_) {
      if (host.unsafeGetStorageImpl() != own) continue;
      for (auto& [base, lent] : tensors_)
        if (lent.storage().unsafeGetStorageImpl() == own) return made(result, card, base.key_set(), true);
      return made(result, card, c10::DispatchKeySet(c10::DispatchKey::CUDA), false);
    }
    auto storage = card_storage(result.storage(), device);
    storages_.emplace_back(storage, result.storage());  // several results may share one
    return made(result, storage, c10::DispatchKeySet(c10::DispatchKey::CUDA), false);
  }
  // Let what was lent have the size, place and memory that an in-place op, or an output of the caller's, was given.
  void settle() {
    for (auto& [card, lent] : tensors_) {
      auto* impl = card.unsafeGetTensorImpl();
      auto* own = card.storage().unsafeGetStorageImpl();
      auto now = lent.storage();
      bool same = false;
      for (auto& [of_card, host] : storages_) same |= of_card.unsafeGetStorageImpl() == own && host.unsafeGetStorageImpl() == now.unsafeGetStorageImpl();
      auto device = card.device().index();
      if (!same) {
        impl->set_storage_keep_dtype(card_storage(now, device));
      } else if (now.data() != own->data() || now.nbytes() != own->nbytes()) {
        Storage moved(c10::make_intrusive<StorageImpl>(
            StorageImpl::use_byte_size_t(), now.nbytes(), now.set_data_ptr(c10::DataPtr(nullptr, Device(DeviceType::CPU))),
            c10::GetCPUAllocator(), true));
        auto bytes = static_cast<int64_t>(moved.nbytes());
        void* data = moved.mutable_data();
        own->set_data_ptr(owned(data, new Owner{c10::DataPtr(), std::move(moved), bytes, device}));
        own->set_nbytes(bytes);
      }
      if (impl->sizes() != lent.sizes() || impl->strides() != lent.strides() || impl->storage_offset() != lent.storage_offset())
        same_geometry(card, lent);
    }
  }

 private:
  static Tensor made(const Tensor& like, Storage storage, c10::DispatchKeySet keys, bool view) {
    auto tensor = view ? at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, std::move(storage), keys, like.dtype())
                       : at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, like.dtype());
    same_geometry(tensor, like);
    return tensor;
  }
  std::vector<std::pair<Storage, Storage>> storages_;  // of the device, of the host
  std::vector<std::pair<Tensor, Tensor>> tensors_;
};

// Call a function with every tensor among the arguments of an op, and its name there.
template <class Function>
static void each_tensor(const c10::FunctionSchema& schema, const torch::jit::Stack& stack, size_t begin, Function function) {
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const auto& value = stack[begin + i];
    const auto& name = schema.arguments()[i].name();
    if (value.isTensor()) { if (value.toTensor().defined()) function(value.toTensor(), name); }
    else if (value.isTensorList()) { for (const Tensor& one : value.toTensorVector()) if (one.defined()) function(one, name); }
    else if (value.isOptionalTensorList()) { for (const auto& one : value.toOptionalTensorVector()) if (one && one->defined()) function(*one, name); }
  }
}
template <class Function>
static void map_tensors(IValue& value, Function function) {
  if (value.isTensor()) { value = function(value.toTensor()); }
  else if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& one : value.toTensorVector()) list.push_back(function(one));
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& one : value.toOptionalTensorVector()) list.push_back(one ? std::optional<Tensor>(function(*one)) : one);
    value = list;
  }
}

static DeviceIndex check_devices(const c10::OperatorHandle& op, const std::string& name, const torch::jit::Stack& stack, size_t begin) {
  const auto& schema = op.schema();
  DeviceIndex device = -1;
  each_tensor(schema, stack, begin, [&](const Tensor& tensor, const std::string&) {
    if (!on_card(tensor)) return;
    if (device < 0) device = tensor.device().index();
    TORCH_CHECK(device == tensor.device().index(), "Expected all tensors to be on the same device, but found at least two devices, cuda:",
        int(device), " and cuda:", int(tensor.device().index()), "! (op ", name, ")");
  });
  for (size_t i = 0; device < 0 && i < schema.arguments().size(); ++i) {
    const auto& value = stack[begin + i];
    if (value.isDevice() && value.toDevice().type() == DeviceType::CUDA) device = value.toDevice().index();
  }
  if (device < 0) device = t_current;
  check_ordinal(device);
  bool number = op.hasTag(at::Tag::pointwise) || kTakesNumber.count(name) || kIndexing.count(name) || name.rfind("where", 0) == 0;
  each_tensor(schema, stack, begin, [&](const Tensor& tensor, const std::string& argument) {
    if (on_card(tensor)) return;
    if (tensor.device().type() == DeviceType::CPU) {
      if (kIndexing.count(name) && argument == "indices") return;
      if (tensor.dim() == 0 && (number || tensor.unsafeGetTensorImpl()->is_wrapped_number())) return;
    }
    TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, cuda:", int(device), " and ",
        tensor.device(), "! (argument ", argument, " of op ", name, ")");
  });
  return device;
}

static void check_dtypes(const std::string& name, const torch::jit::Stack& stack, size_t begin) {
  if (!stack[begin].isTensor() || !stack[begin].toTensor().defined()) return;
  auto kind = stack[begin].toTensor().scalar_type();
  if (kMatmuls.count(name))
    TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(kind) || at::isComplexType(kind), "\"", name, "_cuda\" not implemented for '", c10::toString(kind), "'");
  if (name.rfind("topk", 0) == 0 || name.rfind("kthvalue", 0) == 0)
    TORCH_CHECK_NOT_IMPLEMENTED(kind != at::kBool, "\"", name, "_cuda\" not implemented for 'Bool'");
}

// Sums that a card's threads add to memory in no fixed order: their last digits differ from run to run.
static bool is_atomic(const std::string& name, const torch::jit::Stack& stack, size_t begin) {
  if (!stack[begin].isTensor() || !at::isFloatingType(stack[begin].toTensor().scalar_type())) return false;
  if (name.rfind("index_add", 0) == 0 || name.rfind("scatter_add", 0) == 0) return true;
  if (name.rfind("scatter_reduce", 0) == 0 || name.rfind("index_reduce", 0) == 0 || name.rfind("scatter.reduce", 0) == 0 || name.rfind("scatter.value_reduce", 0) == 0) {
    for (size_t i = begin; i < stack.size(); ++i) if (stack[i].isString()) { auto how = stack[i].toStringRef(); return how != "amax" && how != "amin"; }
  }
  if (name.rfind("index_put", 0) == 0 || name == "_index_put_impl_" || name.rfind("put_", 0) == 0) return false;  // sorted first
  return false;
}

static Kind kind_of(const c10::FunctionSchema& schema, const std::string& name, const torch::jit::Stack& stack, size_t begin) {
  if (kViews.count(name)) return kNothing;
  if (kWaits.count(name)) return kWait;
  if (name == "repeat_interleave.Tensor") return stack[begin + 1].isNone() ? kWait : kLaunch;
  if (!kIndexing.count(name)) return kLaunch;
  int of_host = 0, masks = 0, others = 0;
  each_tensor(schema, stack, begin, [&](const Tensor& tensor, const std::string& argument) {
    if (argument != "indices") return;
    if (!on_card(tensor)) of_host++;
    (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte ? masks : others)++;
  });
  bool fills = name.find("put") != std::string::npos && masks == 1 && !others && stack[begin + 2].toTensor().numel() == 1;
  return of_host || (masks && !fills) ? kWait : kLaunch;
}

static void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = name_of(schema);
  const size_t begin = stack->size() - schema.arguments().size();
  const auto device = check_devices(op, name, *stack, begin);
  if (!schema.arguments().empty()) {
    check_dtypes(name, *stack, begin);
    if (g_listener) {
      tell(kind_of(schema, name, *stack, begin), name);
      if (is_atomic(name, *stack, begin)) tell(kAtomic, name);
    }
  }
  Loan loan;
  for (size_t i = begin; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isDevice() && value.toDevice().type() == DeviceType::CUDA) value = Device(DeviceType::CPU);
    else if (value.isStorage() && value.toStorage().device().type() == DeviceType::CUDA) value = loan.lend(value.toStorage());
    else map_tensors(value, [&](const Tensor& tensor) { return on_card(tensor) ? loan.lend(tensor) : tensor; });
  }
  // a card counts integers too, which the CPU's kernel does not take
  auto counted = name == "histc" ? (*stack)[begin].toTensor().scalar_type() : at::kFloat;
  if (at::isIntegralType(counted, false)) (*stack)[begin] = (*stack)[begin].toTensor().to(at::kDouble);
  {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  if (at::isIntegralType(counted, false)) stack->back() = stack->back().toTensor().to(counted);
  loan.settle();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    map_tensors((*stack)[i], [&](const Tensor& tensor) { return loan.take(tensor, device); });
}

// ------------------------------------------------------------------------------------------------ written by hand

static DeviceIndex wanted(std::optional<Device> device) {
  auto index = device && device->index() >= 0 ? device->index() : t_current;
  check_ordinal(index);
  return index;
}
struct OnDevice {
  DeviceIndex before = t_current;
  explicit OnDevice(DeviceIndex index) { t_current = index; }
  ~OnDevice() { t_current = before; }
};
static const c10::DispatchKeySet kCard(c10::DispatchKey::CUDA);

static Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device> device,
                    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  OnDevice on(wanted(device));
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &g_allocator, kCard, c10::dtype_or_default(dtype), format);
}
static Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                            std::optional<at::Layout>, std::optional<Device> device, std::optional<bool>) {
  OnDevice on(wanted(device));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &g_allocator, kCard, c10::dtype_or_default(dtype));
}

static Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  for (const Tensor& one : {self, source}) if (on_card(one)) check_ordinal(one.device().index());
  bool to = on_card(self), from = on_card(source);
  if (g_listener && self.numel()) {
    if (to && from) tell(kLaunch, "copy_");
    else if (to) tell(non_blocking && is_pinned(source.storage().data()) ? kLaunch : kWait, "copy_ to the device");
    else tell(non_blocking && is_pinned(self.storage().data()) ? kLaunch : kWait, "copy_ to the host");
  }
  Loan loan;
  at::AutoDispatchBelowADInplaceOrView below;
  auto target = to ? loan.lend(self) : self;
  target.copy_(from ? loan.lend(source) : source);
  return self;
}
static Tensor copy_from(const Tensor& source, const Tensor& target, bool non_blocking) {
  auto to = target;
  copy_(to, source, non_blocking);
  return target;
}

static Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask, double dropout,
                        bool causal, std::optional<double> scale, bool grouped) {
  for (const auto* one : {&key, &value})
    TORCH_CHECK(one->device() == query.device(), "Expected query, key, and value to have the same device type, but got ", query.device(), " and ", one->device());
  bool masked = mask && mask->defined();
  TORCH_CHECK(!masked || mask->device() == query.device(), "Expected attn_mask and query on the same device, but got ", query.device());
  TORCH_CHECK(!masked || mask->scalar_type() == at::kBool || mask->scalar_type() == query.scalar_type(), "Expected attn_mask dtype to be bool or to match query dtype");
  tell(kLaunch, "scaled_dot_product_attention");
  Loan loan;
  at::AutoDispatchBelowADInplaceOrView below;
  auto lent = masked ? std::optional<Tensor>(loan.lend(*mask)) : std::nullopt;
  auto result = at::scaled_dot_product_attention(loan.lend(query), loan.lend(key), loan.lend(value), lent, dropout, causal, scale, grouped);
  return loan.take(result, query.device().index());
}

TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy_);
  library.impl("_copy_from", &copy_from);
  library.impl("scaled_dot_product_attention", &attention);
}

// ------------------------------------------------------------------------------------------------ for Python, by ctypes

extern "C" {
// Register each op that has a kernel of the CPU's, before a composite of several could be chosen; once, after torch is loaded.
void pretended_install() {
  c10::SetAllocator(DeviceType::CUDA, &g_allocator);
  static auto* library = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  for (const auto& op : c10::Dispatcher::singleton().getAllOpNames()) {
    if (op.name.rfind("aten::", 0) != 0) continue;
    auto handle = c10::Dispatcher::singleton().findSchema(op);
    if (!handle) continue;
    auto name = name_of(handle->schema());
    if (kByHand.count(name)) continue;
    if (handle->hasKernelForDispatchKey(c10::DispatchKey::CPU) || kWhole.count(name))
      library->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
  }
}
void pretended_listen(Listener listener) { g_listener = listener; }
void pretended_forked() { g_forked = true; }
void pretended_set_devices(int count) { g_devices = count; }
int pretended_devices() { return g_devices; }
int pretended_current() { return t_current; }
int pretended_exchange(int index) {
  int before = t_current;
  if (index >= 0 && index < g_devices) t_current = static_cast<DeviceIndex>(index);
  return before;
}
int64_t pretended_live(int device) { return g_live[device].load(); }
int64_t pretended_peak(int device) { return g_peak[device].load(); }
void pretended_reset_peak(int device) { g_peak[device] = g_live[device].load(); }
}
