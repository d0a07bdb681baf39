// The operators on the CPU: arguments are checked, tensors made dense, and the kernels of the processor's instruction
// set run on all threads. Schemas live in Python (_ops.py).
#include <array>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>

#include "tensors.h"

// The kernels' tables; see kernels.h.
namespace empool {
namespace generic {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif
}  // namespace empool

namespace empool {
namespace {

// EMPOOL_CPU_CAPABILITY forces a lesser instruction set than the processor's best.
const Kernels& choose_kernels() {
    const char* forced = std::getenv("EMPOOL_CPU_CAPABILITY");
    const std::string name = forced ? forced : "";
    const Kernels* best = &generic::kernels;
    bool found = name.empty() || name == best->name;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (name != best->name && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) {
        best = &avx2::kernels;
        found = found || name == best->name;
        if (name != best->name && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            best = &avx512::kernels;
            found = found || name == best->name;
        }
    }
#endif
    STD_TORCH_CHECK(
        found, "EMPOOL_CPU_CAPABILITY: expected default, avx2 or avx512, and one that this processor has, got ", name);
    return *best;
}

const Kernels& kernels() {
    static const Kernels& chosen = choose_kernels();
    return chosen;
}

// A thread is worth starting for about this many elements of input.
constexpr int64_t grain = 1 << 15;

template <class Arguments>
void run(const Strategies<Arguments> (&strategies)[dtypes], DType dtype, const Arguments& arguments) {
    const Strategy<Arguments>* strategy = strategies[static_cast<int>(dtype)];
    while (!strategy->serves(arguments)) ++strategy;
    const Units u = strategy->units(arguments);
    const int64_t work = u.work > 0 ? u.work : 1;
    torch::stable::parallel_for(0, u.count, work < grain ? grain / work : 1,
                                [&](int64_t begin, int64_t end) { strategy->run(arguments, begin, end); });
}

Ints with_spatial(const Tensor& tensor, const Geometry& g, bool out) {
    Ints sizes = sizes_of(tensor);
    for (size_t i = 2; i < sizes.size(); ++i) {
        const Axis& a = g.axis[i + 3 - sizes.size()];
        sizes[i] = out ? a.out : a.in;
    }
    return sizes;
}

void check_dims(const Tensor& tensor, const WindowArguments& window) {
    STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(window.kernel_size.size()) + 2,
                    "empool: expected a batched tensor with as many spatial dimensions as kernel_size has");
}

// The windows of an input, and of a tensor of as many outputs if there is one.
Geometry geometry_of_input(const Tensor& input, const WindowArguments& window, bool ceil_mode, bool channels_last,
                           const Tensor* outputs = nullptr) {
    check_dims(input, window);
    const Ints in = sizes_of(input);
    Ints out;
    if (outputs) {
        check_dims(*outputs, window);
        out = sizes_of(*outputs);
        STD_TORCH_CHECK(out[0] == in[0] && out[1] == in[1], "empool: expected tensors of the same batch and channels");
    }
    return geometry_of(in[0], in[1], in.data() + 2, outputs ? out.data() + 2 : nullptr, window, ceil_mode,
                       channels_last);
}

ScalarType drawn_dtype(const Geometry& g) { return g.window() <= 255 ? ScalarType::Byte : ScalarType::Int; }

void check_drawn(const Tensor& drawn, const Geometry& g) {
    STD_TORCH_CHECK(drawn.scalar_type() == drawn_dtype(g),
                    "empool: expected drawn of dtype uint8 for windows of up to ",
                    "255 positions, int32 for larger ones");
}

Tensor seeds_of(const Tensor& seed, int64_t N) {
    STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.dim() <= 1, "empool: expected an int64 seed");
    STD_TORCH_CHECK(seed.numel() > 0 && N % seed.numel() == 0,
                    "empool: expected one seed, or one for each group of images");
    return seed.dim() == 1 ? dense(seed, false) : seed;
}

Seeds numbers_of(const Tensor& seed, int64_t tied, int64_t first_image) {
    STD_TORCH_CHECK(tied >= 0 && tied <= 3, "empool: expected tied to be 0, 1, 2 or 3");
    return {static_cast<const int64_t*>(seed.const_data_ptr()), seed.numel(), static_cast<Tied>(tied), first_image};
}

std::tuple<Tensor, Tensor> rank_draw_cpu(Tensor input, Tensor seed, Tensor thresholds, const Ints& counts,
                                         const Ints& kernel_size, const Ints& stride, const Ints& padding,
                                         const Ints& dilation, const Outputs& output_size, bool ceil_mode, int64_t tied,
                                         int64_t first_image) {
    const bool channels_last = is_channels_last(input);
    const Geometry g =
        geometry_of_input(input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode, channels_last);
    input = dense(input, channels_last);
    const Ints sizes = with_spatial(input, g, true);
    Tensor output = empty(sizes, input.scalar_type(), channels_last),
           drawn = empty(sizes, drawn_dtype(g), channels_last);
    const Limits limits(thresholds, counts, g);
    if (output.numel() > 0) {
        if (limits.columns > 0) seed = seeds_of(seed, g.N);
        run(kernels().rank_draw, dtype_of(input),
            {g, input.const_data_ptr(), output.mutable_data_ptr(), drawn.mutable_data_ptr(), g.window() > 255,
             limits.columns > 0 ? numbers_of(seed, tied, first_image) : Seeds{}, limits.table(), limits.bases(),
             limits.based});
    }
    return {output, drawn};
}

std::tuple<Tensor, Tensor> value_draw_cpu(Tensor input, Tensor seed, std::optional<Tensor> beta,
                                          const Ints& kernel_size, const Ints& stride, const Ints& padding,
                                          const Ints& dilation, const Outputs& output_size, bool ceil_mode,
                                          int64_t tied, int64_t first_image) {
    const bool channels_last = is_channels_last(input);
    const Geometry g =
        geometry_of_input(input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode, channels_last);
    input = dense(input, channels_last);
    const Ints sizes = with_spatial(input, g, true);
    Tensor output = empty(sizes, input.scalar_type(), channels_last),
           drawn = empty(sizes, drawn_dtype(g), channels_last);
    if (output.numel() > 0) {
        seed = seeds_of(seed, g.N);
        const Factors factors(beta, g);
        run(kernels().value_draw, dtype_of(input),
            {g, input.const_data_ptr(), output.mutable_data_ptr(), drawn.mutable_data_ptr(), g.window() > 255,
             numbers_of(seed, tied, first_image), factors.table()});
    }
    return {output, drawn};
}

Tensor drawn_scatter_cpu(Tensor grad_output, Tensor drawn, const Ints& input_size, const Ints& kernel_size,
                         const Ints& stride, const Ints& padding, const Ints& dilation, const Outputs& output_size) {
    const bool channels_last = is_channels_last(drawn);
    const WindowArguments window{kernel_size, stride, padding, dilation, output_size};
    check_dims(grad_output, window);
    check_dims(drawn, window);
    const Ints out = sizes_of(drawn);
    STD_TORCH_CHECK(input_size.size() == kernel_size.size() && sizes_of(grad_output) == out,
                    "drawn_scatter: expected grad_output of the shape of drawn, and the input's spatial sizes");
    const Geometry g = geometry_of(out[0], out[1], input_size.data(), out.data() + 2, window, false, channels_last);
    check_drawn(drawn, g);
    grad_output = dense(grad_output, channels_last);
    drawn = dense(drawn, channels_last);
    Tensor grad_input = empty(with_spatial(drawn, g, false), grad_output.scalar_type(), channels_last);
    if (grad_input.numel() > 0) {
        run(kernels().drawn_scatter, dtype_of(grad_output),
            {g, grad_output.const_data_ptr(), drawn.const_data_ptr(), grad_input.mutable_data_ptr(), g.window() > 255});
    }
    return grad_input;
}

Tensor drawn_gather_cpu(Tensor input, Tensor drawn, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                        const Ints& dilation, const Outputs& output_size) {
    const bool channels_last = is_channels_last(drawn);
    const Geometry g =
        geometry_of_input(input, {kernel_size, stride, padding, dilation, output_size}, false, channels_last, &drawn);
    check_drawn(drawn, g);
    input = dense(input, channels_last);
    drawn = dense(drawn, channels_last);
    Tensor output = empty(sizes_of(drawn), input.scalar_type(), channels_last);
    if (output.numel() > 0) {
        run(kernels().drawn_gather, dtype_of(input),
            {g, input.const_data_ptr(), drawn.const_data_ptr(), output.mutable_data_ptr(), g.window() > 255});
    }
    return output;
}

Tensor rank_mean_cpu(Tensor input, Tensor weights, const Ints& counts, const Ints& kernel_size, const Ints& stride,
                     const Ints& padding, const Ints& dilation, const Outputs& output_size, bool ceil_mode) {
    const bool channels_last = is_channels_last(input);
    const Geometry g =
        geometry_of_input(input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode, channels_last);
    input = dense(input, channels_last);
    Tensor output = empty(with_spatial(input, g, true), input.scalar_type(), channels_last);
    const Weights table(weights, counts, g);
    if (output.numel() > 0) {
        run(kernels().rank_mean, dtype_of(input),
            {g, input.const_data_ptr(), nullptr, output.mutable_data_ptr(), table.table(), table.starts()});
    }
    return output;
}

// The windows of an input and of its output's gradient, both made dense.
Geometry geometry_of_backward(Tensor& grad_output, Tensor& input, const WindowArguments& window, bool ceil_mode) {
    const bool channels_last = is_channels_last(input);
    const Geometry g = geometry_of_input(input, window, ceil_mode, channels_last, &grad_output);
    STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(),
                    "empool: expected grad_output of the input's dtype");
    input = dense(input, channels_last);
    grad_output = dense(grad_output, channels_last);
    return g;
}

Tensor rank_mean_backward_cpu(Tensor grad_output, Tensor input, Tensor weights, const Ints& counts,
                              const Ints& kernel_size, const Ints& stride, const Ints& padding, const Ints& dilation,
                              const Outputs& output_size, bool ceil_mode) {
    const Geometry g =
        geometry_of_backward(grad_output, input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode);
    Tensor grad_input = empty(sizes_of(input), input.scalar_type(), g.channels_last);
    const Weights table(weights, counts, g);
    if (grad_input.numel() == 0) return grad_input;
    const DType dtype = dtype_of(input);
    if (table.maximum) {
        // The gradient of a draw that always draws the maximum, summed in the dtype.
        const bool wide = g.window() > 255;
        const Ints sizes = sizes_of(grad_output);
        const Tensor drawn = empty(sizes, drawn_dtype(g), g.channels_last);
        const Tensor maximum = empty(sizes, input.scalar_type(), g.channels_last);
        const Limits none(counts, g);
        run(kernels().rank_draw, dtype,
            {g,
             input.const_data_ptr(),
             maximum.mutable_data_ptr(),
             drawn.mutable_data_ptr(),
             wide,
             {},
             none.table(),
             none.bases(),
             false});
        run(kernels().drawn_scatter, dtype,
            {g, grad_output.const_data_ptr(), drawn.const_data_ptr(), grad_input.mutable_data_ptr(), wide});
        return grad_input;
    }
    run(kernels().rank_mean_backward, dtype,
        {g, input.const_data_ptr(), grad_output.const_data_ptr(), grad_input.mutable_data_ptr(), table.table(),
         table.starts()});
    return grad_input;
}

// Writes the gradient of a table, which has `size` numbers for all channels or for each, of the planes' sums. Planes
// are added in their order, whatever the number of threads.
void write_sum(const std::vector<double>& sums, const Geometry& g, int64_t size, Tensor& gradient) {
    const bool by_channel = gradient.numel() > size;
    std::vector<double> total(static_cast<size_t>(gradient.numel()), 0.0);
    for (int64_t plane = 0; plane < g.planes(); ++plane) {
        const int64_t to = (by_channel ? plane % g.C : 0) * size, from = plane * size;
        for (int64_t i = 0; i < size; ++i) total[static_cast<size_t>(to + i)] += sums[static_cast<size_t>(from + i)];
    }
    for (size_t i = 0; i < total.size(); ++i) {
        if (gradient.scalar_type() == ScalarType::Double) {
            static_cast<double*>(gradient.mutable_data_ptr())[i] = total[i];
        } else {
            static_cast<float*>(gradient.mutable_data_ptr())[i] = static_cast<float>(total[i]);
        }
    }
}

Tensor rank_mean_weight_grad_cpu(Tensor grad_output, Tensor input, Tensor weights, const Ints& counts,
                                 const Ints& kernel_size, const Ints& stride, const Ints& padding, const Ints& dilation,
                                 const Outputs& output_size, bool ceil_mode) {
    const Geometry g =
        geometry_of_backward(grad_output, input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode);
    check_table(weights, counts, g.C);
    const int64_t rows = static_cast<int64_t>(counts.size()), R = weights.size(2);
    STD_TORCH_CHECK(weights.scalar_type() == ScalarType::Double || weights.scalar_type() == ScalarType::Float,
                    "empool: expected weights of dtype float64 or float32");
    Tensor grad_weights = empty(sizes_of(weights), weights.scalar_type(), false);
    const auto row = rows_of(counts, g.window());
    std::vector<double> sums(static_cast<size_t>(g.planes() * rows * R), 0.0);
    if (grad_output.numel() > 0) {
        run(kernels().rank_mean_weight_grad, dtype_of(input),
            {g, input.const_data_ptr(), grad_output.const_data_ptr(), R, rows, row.data(), sums.data()});
    }
    write_sum(sums, g, rows * R, grad_weights);
    return grad_weights;
}

Tensor value_mean_cpu(Tensor input, std::optional<Tensor> beta, const Ints& kernel_size, const Ints& stride,
                      const Ints& padding, const Ints& dilation, const Outputs& output_size, bool ceil_mode) {
    const bool channels_last = is_channels_last(input);
    const Geometry g =
        geometry_of_input(input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode, channels_last);
    input = dense(input, channels_last);
    Tensor output = empty(with_spatial(input, g, true), input.scalar_type(), channels_last);
    if (output.numel() > 0) {
        const Factors factors(beta, g);
        run(kernels().value_mean, dtype_of(input),
            {g, input.const_data_ptr(), nullptr, output.mutable_data_ptr(), factors.table()});
    }
    return output;
}

Tensor value_mean_backward_cpu(Tensor grad_output, Tensor input, std::optional<Tensor> beta, const Ints& kernel_size,
                               const Ints& stride, const Ints& padding, const Ints& dilation,
                               const Outputs& output_size, bool ceil_mode) {
    const Geometry g =
        geometry_of_backward(grad_output, input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode);
    Tensor grad_input = empty(sizes_of(input), input.scalar_type(), g.channels_last);
    if (grad_input.numel() > 0) {
        const Factors factors(beta, g);
        run(kernels().value_mean_backward, dtype_of(input),
            {g, input.const_data_ptr(), grad_output.const_data_ptr(), grad_input.mutable_data_ptr(), factors.table()});
    }
    return grad_input;
}

Tensor value_mean_beta_grad_cpu(Tensor grad_output, Tensor input, Tensor beta, const Ints& kernel_size,
                                const Ints& stride, const Ints& padding, const Ints& dilation,
                                const Outputs& output_size, bool ceil_mode) {
    const Geometry g =
        geometry_of_backward(grad_output, input, {kernel_size, stride, padding, dilation, output_size}, ceil_mode);
    const Factors factors(beta, g);
    Tensor grad_beta = empty(sizes_of(beta), beta.scalar_type(), false);
    std::vector<double> sums(static_cast<size_t>(g.planes()), 0.0);
    if (grad_output.numel() > 0) {
        run(kernels().value_mean_beta_grad, dtype_of(input),
            {g, input.const_data_ptr(), grad_output.const_data_ptr(), factors.table(), sums.data()});
    }
    write_sum(sums, g, 1, grad_beta);
    return grad_beta;
}

// The numbers of a call, which Python has remembered here under one: PyTorch takes longer to hand six lists over than a
// kernel takes for a tiny tensor.
struct Numbers {
    Ints counts, kernel_size, stride, padding, dilation;
    Outputs output_size;
    Ints input_size;
    bool ceil_mode;
    int64_t tied, first_image;
};

constexpr int64_t most_remembered = 4096;
std::array<std::atomic<const Numbers*>, most_remembered> remembered;
std::atomic<int64_t> next_remembered;

// Returns -1 where there is no room.
int64_t remember(const Ints& counts, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                 const Ints& dilation, const Ints& output_size, const Ints& input_size, bool ceil_mode, int64_t tied,
                 int64_t first_image) {
    const int64_t index = next_remembered.fetch_add(1);
    if (index >= most_remembered) return -1;
    remembered[static_cast<size_t>(index)] = new Numbers{counts,      kernel_size, stride,    padding, dilation,
                                                         output_size, input_size,  ceil_mode, tied,    first_image};
    return index;
}

const Numbers& recall(int64_t index) {
    const Numbers* numbers =
        index >= 0 && index < most_remembered ? remembered[static_cast<size_t>(index)].load() : nullptr;
    STD_TORCH_CHECK(numbers, "empool: expected numbers that are remembered");
    return *numbers;
}

std::tuple<Tensor, Tensor> rank_draw_recalled(Tensor input, Tensor seed, Tensor thresholds, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return rank_draw_cpu(input, seed, thresholds, n.counts, n.kernel_size, n.stride, n.padding, n.dilation,
                         n.output_size, n.ceil_mode, n.tied, n.first_image);
}

std::tuple<Tensor, Tensor> value_draw_recalled(Tensor input, Tensor seed, std::optional<Tensor> beta, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return value_draw_cpu(input, seed, beta, n.kernel_size, n.stride, n.padding, n.dilation, n.output_size, n.ceil_mode,
                          n.tied, n.first_image);
}

Tensor drawn_scatter_recalled(Tensor grad_output, Tensor drawn, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return drawn_scatter_cpu(grad_output, drawn, n.input_size, n.kernel_size, n.stride, n.padding, n.dilation,
                             n.output_size);
}

Tensor rank_mean_recalled(Tensor input, Tensor weights, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return rank_mean_cpu(input, weights, n.counts, n.kernel_size, n.stride, n.padding, n.dilation, n.output_size,
                         n.ceil_mode);
}

Tensor rank_mean_backward_recalled(Tensor grad_output, Tensor input, Tensor weights, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return rank_mean_backward_cpu(grad_output, input, weights, n.counts, n.kernel_size, n.stride, n.padding, n.dilation,
                                  n.output_size, n.ceil_mode);
}

Tensor value_mean_recalled(Tensor input, std::optional<Tensor> beta, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return value_mean_cpu(input, beta, n.kernel_size, n.stride, n.padding, n.dilation, n.output_size, n.ceil_mode);
}

Tensor value_mean_backward_recalled(Tensor grad_output, Tensor input, std::optional<Tensor> beta, int64_t numbers) {
    const Numbers& n = recall(numbers);
    return value_mean_backward_cpu(grad_output, input, beta, n.kernel_size, n.stride, n.padding, n.dilation,
                                   n.output_size, n.ceil_mode);
}

}  // namespace

const char* cpu_capability() { return kernels().name; }

}  // namespace empool

STABLE_TORCH_LIBRARY_IMPL(empool, CPU, m) {
    m.impl("rank_draw", TORCH_BOX(&empool::rank_draw_cpu));
    m.impl("value_draw", TORCH_BOX(&empool::value_draw_cpu));
    m.impl("drawn_scatter", TORCH_BOX(&empool::drawn_scatter_cpu));
    m.impl("drawn_gather", TORCH_BOX(&empool::drawn_gather_cpu));
    m.impl("rank_mean", TORCH_BOX(&empool::rank_mean_cpu));
    m.impl("rank_mean_backward", TORCH_BOX(&empool::rank_mean_backward_cpu));
    m.impl("rank_mean_weight_grad", TORCH_BOX(&empool::rank_mean_weight_grad_cpu));
    m.impl("value_mean", TORCH_BOX(&empool::value_mean_cpu));
    m.impl("value_mean_backward", TORCH_BOX(&empool::value_mean_backward_cpu));
    m.impl("value_mean_beta_grad", TORCH_BOX(&empool::value_mean_beta_grad_cpu));
}

STABLE_TORCH_LIBRARY(empool_recalled, m) {
    m.def(
        "remember(int[] counts, int[] kernel_size, int[] stride, int[] padding, int[] dilation, int[] output_size, "
        "int[] input_size, bool ceil_mode, int tied, int first_image) -> int");
    m.def("rank_draw(Tensor input, Tensor seed, Tensor thresholds, int numbers) -> (Tensor, Tensor)");
    m.def("value_draw(Tensor input, Tensor seed, Tensor? beta, int numbers) -> (Tensor, Tensor)");
    m.def("drawn_scatter(Tensor grad_output, Tensor drawn, int numbers) -> Tensor");
    m.def("rank_mean(Tensor input, Tensor weights, int numbers) -> Tensor");
    m.def("rank_mean_backward(Tensor grad_output, Tensor input, Tensor weights, int numbers) -> Tensor");
    m.def("value_mean(Tensor input, Tensor? beta, int numbers) -> Tensor");
    m.def("value_mean_backward(Tensor grad_output, Tensor input, Tensor? beta, int numbers) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(empool_recalled, CompositeExplicitAutograd, m) {
    m.impl("remember", TORCH_BOX(&empool::remember));
}

STABLE_TORCH_LIBRARY_IMPL(empool_recalled, CPU, m) {
    m.impl("rank_draw", TORCH_BOX(&empool::rank_draw_recalled));
    m.impl("value_draw", TORCH_BOX(&empool::value_draw_recalled));
    m.impl("drawn_scatter", TORCH_BOX(&empool::drawn_scatter_recalled));
    m.impl("rank_mean", TORCH_BOX(&empool::rank_mean_recalled));
    m.impl("rank_mean_backward", TORCH_BOX(&empool::rank_mean_backward_recalled));
    m.impl("value_mean", TORCH_BOX(&empool::value_mean_recalled));
    m.impl("value_mean_backward", TORCH_BOX(&empool::value_mean_backward_recalled));
}
