"""The H2O cache policy in numpy: which tokens must be kept after the prompt and after every step.

The oracle of tests/parity/check_trace.py. One object stands for one layer; a row is one (sequence, KV head), and rows
never look at each other. What drives it, per layer: full causal attention over the prompt, then `prefill(attn)`; each
step `a = attended()`, `p = softmax(q . K[a] * d**-0.5)`, `out = p @ V[a]`, `step(p)`.
"""
import numpy as np
def softmax(x): e=np.exp(x-x.max(-1,keepdims=True)); return e/e.sum(-1,keepdims=True)

class H2O:                                # one layer; a row = one (batch entry, KV head)
    """Canonical (H,R) policy. pos[rows,n]: kept positions, ascending; acc[rows,n]: their scores."""
    def __init__(s,H,R): s.H,s.R=H,R
    def prefill(s,attn):                 # attn[rows,S,S]: causal softmax rows (no padding)
        rows,S,_=attn.shape; s.t=S       # s.t = position of the next token to be processed
        s.pos=np.tile(np.arange(S),(rows,1)); s.acc=attn.sum(1); s._evict()
    def attended(s): return np.c_[s.pos,np.full(len(s.pos),s.t)]      # kept set, then the token itself
    def step(s,p):                       # p[rows,n+1]: softmax of token s.t over attended()
        s.pos=s.attended(); s.acc=np.c_[s.acc,np.zeros(len(p))]+p; s.t+=1; s._evict()
    def _evict(s):                       # keep top-H of everything but the R newest, plus the R newest
        n=s.pos.shape[1]
        if n<=s.H+s.R: return
        keep=np.sort(np.argsort(-s.acc[:,:n-s.R],1,kind='stable')[:,:s.H],1)   # tie: older position stays
        keep=np.c_[keep,np.tile(np.arange(n-s.R,n),(len(keep),1))]
        s.pos=np.take_along_axis(s.pos,keep,1); s.acc=np.take_along_axis(s.acc,keep,1)

class H2OFlexGen(H2O):                   # h2o_flexgen --hh-all, K=int(prompt_len*hh_ratio), K>=2, S>=2K-1
    def __init__(s,K): super().__init__(K-1,K); s.K=K                  # decode rule == canonical (K-1,K)
    def prefill(s,attn):                 # ... but prefill keeps top-K of [0,S-K] plus the last K-1
        rows,S,_=attn.shape; K=s.K; s.t=S; sc=attn.sum(1)
        hh=np.sort(np.argsort(-sc[:,:S-K+1],1,kind='stable')[:,:K],1)
        s.pos=np.c_[hh,np.tile(np.arange(S-K+1,S),(rows,1))]; s.acc=np.take_along_axis(sc,s.pos,1)

class FlexGenSlots:                      # the same, slot by slot as stored: [0,K) heavy | [K,2K-1) ring | 2K-1 scratch
    def __init__(s,K): s.K=K; s.i=0
    def prefill(s,attn):
        rows,S,_=attn.shape; K=s.K; s.t=S; sc=attn.sum(1)
        hh=np.argsort(-sc[:,:S-K+1],1,kind='stable')[:,:K]             # slots 0..K-1 in DEScending score order
        s.pos=np.c_[hh,np.tile(np.arange(S-K+1,S),(rows,1))]; s.acc=np.take_along_axis(sc,s.pos,1)
    def attended(s): return np.c_[s.pos,np.full(len(s.pos),s.t)]
    def step(s,p):
        K=s.K; s.i+=1; r=np.arange(len(p)); acc=np.c_[s.acc,np.zeros(len(p))]+p   # scratch starts at 0, gets its own step
        victim=acc[:,:K].argmin(1); o=K+(s.i-1)%(K-1)                  # first minimum in slot order; o = oldest ring slot
        s.pos[r,victim]=s.pos[:,o]; acc[r,victim]=acc[:,o]             # oldest recent token moves into the victim's slot
        s.pos[:,o]=s.t; acc[:,o]=acc[:,-1]; s.acc=acc[:,:-1]; s.t+=1   # new token overwrites the ring slot
