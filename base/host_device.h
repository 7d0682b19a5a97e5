// Marks a function that runs on hosts and on CUDA devices alike.
#pragma once

#ifdef __CUDACC__
#define H2O_HOST_DEVICE __host__ __device__
#else
#define H2O_HOST_DEVICE
#endif
