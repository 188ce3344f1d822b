/* A host in C for a folder that `idefics2-onnx export` made: ids and pixels in, the answer's ids out, one a line as they come.
 *
 *     host FOLDER IMAGE_TOKEN_ID MAX_NEW_TOKENS ENDS NEVER IDS [HEIGHT WIDTH TILE]...
 *
 * ENDS and NEVER are ids with commas between them: eos_token_id and bad_words_ids of generation_config.json ("-" for none).
 * IDS is a file of int64, the prompt with its image tokens; each TILE a file of values [3, HEIGHT, WIDTH] in the type of the
 * folder's graphs, as docs/model-folder.md says how to make them. Sizes are read from the graphs. Greedy, one prompt, fp32 or
 * fp16 graphs and those of integers; the cache grows by one allocation a step, where a product would bind one buffer. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime_c_api.h"

enum { MAX_LAYERS = 256, NAME = 48, MOST = 1 << 20 /* new tokens, or pixels of a side */ };

static const OrtApi *ort;
static OrtMemoryInfo *host_memory;
static ONNXTensorElementDataType element; /* of pixels, features, embeddings and cache */

static void fail(const char *fact) {
    fprintf(stderr, "%s\n", fact);
    exit(1);
}

static void check(OrtStatus *status) {
    if (status) fail(ort->GetErrorMessage(status));
}

static void *allocated(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) fail("There is no memory left.");
    return memory;
}

static int64_t number(const char *text, int64_t least, int64_t most, const char *fact) {
    char *end;
    int64_t found = strtoll(text, &end, 10);
    if (end == text || *end || found < least || found > most) fail(fact);
    return found;
}

static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    long size = file && !fseek(file, 0, SEEK_END) ? ftell(file) : -1;
    if (size < 0 || size == LONG_MAX) fail("A file of ids or values cannot be read. Check its path."); /* LONG_MAX: a folder */
    *bytes = (size_t)size;
    rewind(file);
    void *content = allocated(*bytes);
    if (fread(content, 1, *bytes, file) != *bytes) fail("A file of ids or values was cut off.");
    fclose(file);
    return content;
}

/* A tensor over memory of ours, which has to live as long as it does. */
static OrtValue *over(void *data, ONNXTensorElementDataType type, size_t rank, const int64_t *shape) {
    size_t count = 1, size = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 ? 8 : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2 : 4;
    for (size_t i = 0; i < rank; i++) count *= (size_t)shape[i];
    OrtValue *value;
    check(ort->CreateTensorWithDataAsOrtValue(host_memory, data, count * size, shape, rank, type, &value));
    return value;
}

static OrtValue *ids_over(int64_t *data, int64_t count) {
    return over(data, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 2, (int64_t[]){1, count});
}

static void *data_of(OrtValue *value) {
    void *data;
    check(ort->GetTensorMutableData(value, &data));
    return data;
}

static OrtSession *opened(OrtEnv *env, const char *folder, const char *graph) {
    char path[4096];
    OrtSessionOptions *options;
    OrtSession *session;
    snprintf(path, sizeof path, "%s/%s.onnx", folder, graph); /* on Windows paths are wchar_t */
    check(ort->CreateSessionOptions(&options));
    /* Without 8-bit units (VNNI, AMX) a processor's sums of 8-bit products overflow otherwise; with them, or before
     * ONNX Runtime 1.30, leave it out: it is slow there, and ends the process here. */
    check(ort->AddSessionConfigEntry(options, "session.x64quantprecision", "1"));
    check(ort->CreateSession(env, path, options, &session));
    ort->ReleaseSessionOptions(options);
    return session;
}

/* Type and up to four axes of a graph's input; axes without a fixed size are negative. */
static ONNXTensorElementDataType input_type(OrtSession *session, size_t index, int64_t axes[4]) {
    OrtTypeInfo *info;
    const OrtTensorTypeAndShapeInfo *tensor;
    ONNXTensorElementDataType type;
    check(ort->SessionGetInputTypeInfo(session, index, &info));
    check(ort->CastTypeInfoToTensorInfo(info, &tensor));
    check(ort->GetTensorElementType(tensor, &type));
    check(ort->GetDimensions(tensor, axes, 4));
    ort->ReleaseTypeInfo(info);
    return type;
}

static int is_among(int64_t id, const char *list) {
    for (char *end; *list && *list != '-'; list = *end ? end + 1 : end)
        if (strtoll(list, &end, 10) == id) return 1;
    return 0;
}

static void check_list(const char *list) {
    for (char *end; strcmp(list, "-"); list = end + 1) {
        if (strtoll(list, &end, 10) < 0 || end == list || (*end && *end != ','))
            fail("ENDS or NEVER is not ids with commas between them. Give these, or - for none.");
        if (!*end) return;
    }
}

/* Features of all tiles, one after another: [tiles × rows, width]; images of several sizes are encoded one by one. */
static OrtValue *encode(OrtSession *vision, int tiles, char **arguments, int64_t width, int64_t *rows) {
    const char *input[] = {"pixel_values"}, *output[] = {"image_features"};
    size_t size = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ? 2 : 4, used = 0;
    char *features = allocated(0);
    for (int i = 0; i < tiles; i++) {
        const char *side = "A HEIGHT or WIDTH is no number from 1 to 1048576. Give the tile's own in pixels.";
        int64_t shape[] = {1, 3, number(arguments[3 * i], 1, MOST, side), number(arguments[3 * i + 1], 1, MOST, side)};
        size_t bytes, count;
        void *pixels = read_file(arguments[3 * i + 2], &bytes);
        if (bytes != size * 3 * (size_t)(shape[2] * shape[3])) fail("A tile's file is not [3, HEIGHT, WIDTH] in the graphs' type.");
        OrtValue *tile = over(pixels, element, 4, shape), *encoded = NULL;
        OrtTensorTypeAndShapeInfo *info;
        check(ort->Run(vision, NULL, input, (const OrtValue *const *)&tile, 1, output, 1, &encoded));
        check(ort->GetTensorTypeAndShape(encoded, &info));
        check(ort->GetTensorShapeElementCount(info, &count));
        if (!(features = realloc(features, used + count * size))) fail("There is no memory left.");
        memcpy(features + used, data_of(encoded), count * size);
        used += count * size;
        ort->ReleaseTensorTypeAndShapeInfo(info);
        ort->ReleaseValue(encoded);
        ort->ReleaseValue(tile);
        free(pixels);
    }
    *rows = (int64_t)(used / size) / width;
    return over(features, element, 2, (int64_t[]){*rows, width});
}

int main(int argc, char **argv) {
    if (argc < 7 || (argc - 7) % 3) fail("host FOLDER IMAGE_TOKEN_ID MAX_NEW_TOKENS ENDS NEVER IDS [HEIGHT WIDTH TILE]...");
    if (!(ort = OrtGetApiBase()->GetApi(ORT_API_VERSION))) fail("The library is older than the header it was built with.");
    int64_t image_token = number(argv[2], 0, INT32_MAX, "IMAGE_TOKEN_ID is no id. Take it from idefics2_onnx.json.");
    int64_t most = number(argv[3], 1, MOST, "MAX_NEW_TOKENS is no number from 1 to 1048576. Give one.");
    check_list(argv[4]), check_list(argv[5]);
    OrtEnv *env;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "idefics2", &env));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &host_memory));
    OrtSession *vision = opened(env, argv[1], "vision"), *embedding = opened(env, argv[1], "embedding");
    OrtSession *decoder = opened(env, argv[1], "decoder");

    int64_t axes[4];
    size_t inputs, bytes;
    check(ort->SessionGetInputCount(decoder, &inputs));
    int caches = (int)inputs - 3; /* a key and a value for each layer */
    if (caches < 2 || caches > 2 * MAX_LAYERS) fail("decoder.onnx has not the inputs of this contract. Export the model again.");
    element = input_type(decoder, 0, axes);
    int64_t width = axes[2], unused;
    OrtValue *features = encode(vision, (argc - 7) / 3, argv + 7, width, &unused);

    int64_t *ids = read_file(argv[6], &bytes), count = (int64_t)bytes / 8, total = 0, longest = count + most;
    if (!count || bytes % 8) fail("The file IDS does not hold int64s. Write the prompt's ids to it.");
    for (int64_t i = 0; i < count; i++) unused -= ids[i] == image_token;
    if (unused) fail("IDS has not as many image tokens as the tiles have rows of features. Give each tile that it was made for.");
    int64_t *rows = allocated(8 * (size_t)count), *mask = allocated(8 * (size_t)longest);
    char names[4 * MAX_LAYERS][NAME];
    const char *in_names[3 + 2 * MAX_LAYERS] = {"inputs_embeds", "attention_mask", "logit_positions"};
    const char *out_names[1 + 2 * MAX_LAYERS] = {"logits"};
    OrtValue *cache[2 * MAX_LAYERS];
    input_type(decoder, 3, axes);
    for (int i = 0; i < caches; i++) {
        snprintf(names[2 * i], NAME, "past_key_values.%d.%s", i / 2, i % 2 ? "value" : "key");
        snprintf(names[2 * i + 1], NAME, "present.%d.%s", i / 2, i % 2 ? "value" : "key");
        in_names[3 + i] = names[2 * i], out_names[1 + i] = names[2 * i + 1];
        cache[i] = over(names, element, 4, (int64_t[]){1, axes[1], 0, axes[3]}); /* empty: the past grows */
    }
    OrtValue *nothing = over(names, element, 2, (int64_t[]){0, width});

    for (int64_t made = 0, row = 0; made < most; made++) {
        for (int64_t i = 0; i < count; i++) rows[i] = ids[i] == image_token && !total ? row++ : -1;
        int64_t last = count - 1;
        total += count;
        for (int64_t i = total - count; i < total; i++) mask[i] = 1;
        OrtValue *given[3 + 2 * MAX_LAYERS] = {ids_over(ids, count), made ? nothing : features, ids_over(rows, count)};
        OrtValue *found[1 + 2 * MAX_LAYERS] = {NULL}, *embeds = NULL;
        check(ort->Run(embedding, NULL, (const char *[]){"input_ids", "image_features", "feature_rows"},
                       (const OrtValue *const *)given, 3, (const char *[]){"inputs_embeds"}, 1, &embeds));
        ort->ReleaseValue(given[0]), ort->ReleaseValue(given[2]);
        given[0] = embeds, given[1] = ids_over(mask, total), given[2] = ids_over(&last, 1);
        memcpy(given + 3, cache, sizeof *cache * (size_t)caches);
        check(ort->Run(decoder, NULL, in_names, (const OrtValue *const *)given, inputs, out_names, 1 + (size_t)caches, found));
        for (int i = 0; i < 3 + caches; i++) ort->ReleaseValue(given[i]);
        memcpy(cache, found + 1, sizeof *cache * (size_t)caches);

        OrtTensorTypeAndShapeInfo *info;
        size_t vocabulary;
        check(ort->GetTensorTypeAndShape(found[0], &info));
        check(ort->GetTensorShapeElementCount(info, &vocabulary));
        ort->ReleaseTensorTypeAndShapeInfo(info);
        const float *logits = data_of(found[0]);
        int64_t best = -1;
        for (int64_t id = 0; id < (int64_t)vocabulary; id++)
            if ((best < 0 || logits[id] > logits[best]) && !is_among(id, argv[5])) best = id;
        ort->ReleaseValue(found[0]);
        printf("%lld\n", (long long)best);
        fflush(stdout);
        if (is_among(best, argv[4])) break;
        ids[0] = best, count = 1;
    }
    return 0;
}
