/* A webcam for programs that are started with LD_PRELOAD: answers V4L2 requests on one path.
 *
 * STAND_IN_DEVICE is the path, STAND_IN_JPEG the picture that it sends (MJPG only), of size
 * 640x480; asking for another size gets this one, as drivers answer. While STAND_IN_DEVICE.unplugged
 * exists every request fails with ENODEV. Pictures are stamped 10 ms before they are delivered.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LENGTH (1 << 20)
#define RATE 30

static int memory = -1; /* the buffers; mmap of the device's file descriptor works on it as it is */
static int descriptors[1024];
static int queue[64], queued;
static double due;

static int unplugged(void) {
  char path[512];
  snprintf(path, sizeof path, "%s.unplugged", getenv("STAND_IN_DEVICE"));
  return access(path, F_OK) == 0;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int opened(const char *path) { /* -2: not our device */
  const char *device = getenv("STAND_IN_DEVICE");
  if (!device || strcmp(path, device)) return -2;
  if (unplugged()) return errno = ENODEV, -1;
  if (memory < 0) {
    memory = memfd_create("v4l2", 0);
    if (ftruncate(memory, 4 * LENGTH)) return -1;
  }
  int descriptor = dup(memory);
  descriptors[descriptor] = 1;
  return descriptor;
}

#define OPEN(name)                                                      \
  int name(const char *path, int flags, ...) {                          \
    va_list rest;                                                       \
    va_start(rest, flags);                                              \
    int mode = va_arg(rest, int), result = opened(path);                \
    va_end(rest);                                                       \
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);      \
    return result == -2 ? next(path, flags, mode) : result;             \
  }
OPEN(open)
OPEN(open64)

int close(int descriptor) {
  int (*next)(int) = dlsym(RTLD_NEXT, "close");
  if (descriptor >= 0 && descriptor < 1024) descriptors[descriptor] = 0;
  return next(descriptor);
}

static void set_format(struct v4l2_pix_format *format) {
  format->pixelformat = V4L2_PIX_FMT_MJPEG;
  format->width = 640, format->height = 480;
  format->sizeimage = LENGTH, format->bytesperline = 0, format->field = V4L2_FIELD_NONE;
}

static int deliver(struct v4l2_buffer *buffer) {
  if (!queued) return errno = EINVAL, -1;
  due += 1.0 / RATE;
  if (due > now()) usleep((useconds_t)((due - now()) * 1e6));
  if (unplugged()) return errno = ENODEV, -1;
  buffer->index = queue[0];
  memmove(queue, queue + 1, sizeof queue - sizeof *queue);
  queued--;
  char *data = mmap(0, LENGTH, PROT_WRITE, MAP_SHARED, memory, (off_t)buffer->index * LENGTH);
  int file = open(getenv("STAND_IN_JPEG"), O_RDONLY);
  buffer->bytesused = read(file, data, LENGTH);
  close(file);
  munmap(data, LENGTH);
  double stamp = now() - 0.010;
  buffer->timestamp.tv_sec = (time_t)stamp;
  buffer->timestamp.tv_usec = (suseconds_t)((stamp - (time_t)stamp) * 1e6);
  buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_DONE;
  buffer->length = LENGTH, buffer->m.offset = buffer->index * LENGTH;
  return 0;
}

static int answer(unsigned request, void *data) {
  if (unplugged()) return errno = ENODEV, -1;
  if (request == VIDIOC_QUERYCAP) {
    struct v4l2_capability *c = data;
    memset(c, 0, sizeof *c);
    strcpy((char *)c->card, "Stand-in");
    strcpy((char *)c->bus_info, "usb-1.2");
    c->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
    c->capabilities = c->device_caps | V4L2_CAP_DEVICE_CAPS;
  } else if (request == VIDIOC_ENUM_FMT && ((struct v4l2_fmtdesc *)data)->index == 0) {
    ((struct v4l2_fmtdesc *)data)->pixelformat = V4L2_PIX_FMT_MJPEG;
  } else if (request == VIDIOC_ENUM_FRAMESIZES && ((struct v4l2_frmsizeenum *)data)->index == 0) {
    struct v4l2_frmsizeenum *e = data;
    e->type = V4L2_FRMSIZE_TYPE_DISCRETE, e->discrete.width = 640, e->discrete.height = 480;
  } else if (request == VIDIOC_ENUM_FRAMEINTERVALS &&
             ((struct v4l2_frmivalenum *)data)->index == 0) {
    struct v4l2_frmivalenum *e = data;
    e->type = V4L2_FRMIVAL_TYPE_DISCRETE, e->discrete.numerator = 1, e->discrete.denominator = RATE;
  } else if (request == VIDIOC_G_FMT || request == VIDIOC_S_FMT) {
    set_format(&((struct v4l2_format *)data)->fmt.pix);
  } else if (request == VIDIOC_G_PARM || request == VIDIOC_S_PARM) {
    struct v4l2_fract *period = &((struct v4l2_streamparm *)data)->parm.capture.timeperframe;
    period->numerator = 1, period->denominator = RATE;
  } else if (request == VIDIOC_REQBUFS) {
    struct v4l2_requestbuffers *b = data;
    if (b->count > 4) b->count = 4;
    queued = 0;
  } else if (request == VIDIOC_QUERYBUF) {
    struct v4l2_buffer *b = data;
    b->length = LENGTH, b->m.offset = b->index * LENGTH;
  } else if (request == VIDIOC_QBUF) {
    queue[queued++] = ((struct v4l2_buffer *)data)->index;
  } else if (request == VIDIOC_STREAMON) {
    due = now();
  } else if (request == VIDIOC_DQBUF) {
    return deliver(data);
  } else if (request != VIDIOC_STREAMOFF) {
    return errno = EINVAL, -1;
  }
  return 0;
}

int ioctl(int descriptor, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *data = va_arg(rest, void *);
  va_end(rest);
  if (descriptor >= 0 && descriptor < 1024 && descriptors[descriptor])
    return answer((unsigned)request, data);
  int (*next)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
  return next(descriptor, request, data);
}
