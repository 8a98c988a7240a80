/* Speaks a text with an export, by TensorFlow's C API alone.
 *
 *     speak EXPORT AUDIO_OUTPUT TEXT VOICE SEED TEMPERATURE FILE
 *
 * AUDIO_OUTPUT is the tensor of the output `audio` of `serving_default`, which
 * `saved_model_cli show` prints. FILE becomes float32 samples, 24 kHz. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tensorflow/c/c_api.h>
#include <tensorflow/c/tf_tstring.h>

enum { MIN_TOKENS = 0, MAX_TOKENS = 40, NUM_INPUTS = 9 };

static TF_Status *status;

static void check(const char *what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

/* A tensor of shape (1,). */
static TF_Tensor *row_of(TF_DataType type, const void *value, size_t size) {
  const int64_t shape[] = {1};
  TF_Tensor *tensor = TF_AllocateTensor(type, shape, 1, size);
  memcpy(TF_TensorData(tensor), value, size);
  return tensor;
}

static TF_Tensor *text_of(const char *text) {
  TF_TString string;
  TF_StringInit(&string);
  TF_StringCopy(&string, text, strlen(text));
  return row_of(TF_STRING, &string, sizeof string);
}

static TF_Tensor *float_of(float value) { return row_of(TF_FLOAT, &value, sizeof value); }

static TF_Tensor *int_of(int32_t value) { return row_of(TF_INT32, &value, sizeof value); }

static TF_Tensor *long_of(int64_t value) { return row_of(TF_INT64, &value, sizeof value); }

/* The tensor `NAME:INDEX` of a graph. */
static TF_Output find(TF_Graph *graph, const char *name) {
  char operation[256];
  snprintf(operation, sizeof operation, "%s", name);
  char *colon = strrchr(operation, ':');
  if (colon) *colon = '\0';
  const TF_Output found = {TF_GraphOperationByName(graph, operation),
                           colon ? atoi(colon + 1) : 0};
  if (found.oper) return found;
  fprintf(stderr, "the graph has no %s\n", operation);
  exit(1);
}

static TF_Output input(TF_Graph *graph, const char *name) {
  char operation[256];
  snprintf(operation, sizeof operation, "serving_default_%s:0", name);
  return find(graph, operation);
}

int main(int count, char **words) {
  if (count != 8) {
    fprintf(stderr, "speak EXPORT AUDIO_OUTPUT TEXT VOICE SEED TEMPERATURE FILE\n");
    return 2;
  }
  status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *const tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1,
                                                     graph, NULL, status);
  check("load");

  const float heat = strtof(words[6], NULL);
  const char *const names[NUM_INPUTS] = {
      "text",           "voice",          "seed",
      "stream",         "min_new_tokens", "max_new_tokens",
      "semantic_temperature", "coarse_temperature", "fine_temperature"};
  TF_Tensor *const values[NUM_INPUTS] = {
      text_of(words[3]), text_of(words[4]), long_of(strtoll(words[5], NULL, 10)),
      int_of(0),         int_of(MIN_TOKENS), int_of(MAX_TOKENS),
      float_of(heat),    float_of(heat),    float_of(heat)};
  TF_Output inputs[NUM_INPUTS];
  for (int i = 0; i < NUM_INPUTS; i++) inputs[i] = input(graph, names[i]);

  const TF_Output output = find(graph, words[2]);
  TF_Tensor *audio = NULL;
  TF_SessionRun(session, NULL, inputs, values, NUM_INPUTS, &output, &audio, 1, NULL, 0,
                NULL, status);
  check("speak");

  FILE *file = fopen(words[7], "wb");
  const size_t size = TF_TensorByteSize(audio);
  if (!file || fwrite(TF_TensorData(audio), 1, size, file) != size || fclose(file)) {
    perror(words[7]);
    return 1;
  }
  for (int i = 0; i < NUM_INPUTS; i++) TF_DeleteTensor(values[i]);
  TF_DeleteTensor(audio);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
